/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The plug-in's ranges of spoiled memory: what was lost, what was written anew. */
#include <cstdio>

#include "spoiled.hpp"

using jal_ggml::Spoiled;

static int failed = 0;

static void want(bool held, const char *what) {
    if (held) return;
    std::printf("FAIL %s\n", what);
    failed++;
}

int main() {
    Spoiled spoiled;
    want(!spoiled.any() && !spoiled.touches(0, UINT64_MAX), "nothing is spoiled at first");
    spoiled.add(100, 0);
    want(!spoiled.any(), "an empty write spoils nothing");
    spoiled.add(100, 50);
    want(spoiled.touches(149, 1) && spoiled.touches(90, 11), "its first and its last byte are");
    want(!spoiled.touches(150, 9) && !spoiled.touches(90, 10), "what is beside it is not");

    spoiled.heal(110, 10);
    want(!spoiled.touches(110, 10), "what is written anew is whole");
    want(spoiled.touches(109, 1) && spoiled.touches(120, 1), "the rest on both sides is not");
    spoiled.heal(0, 130);
    want(!spoiled.touches(0, 130) && spoiled.touches(130, 1), "the front is cut off");
    spoiled.heal(140, 100);
    want(spoiled.touches(139, 1) && !spoiled.touches(140, 10), "the back is cut off");
    spoiled.heal(0, 1000);
    want(!spoiled.any(), "all is whole again");

    for (std::uint64_t i = 0; i < 1000; i++) spoiled.add(1000 * i, 10);
    bool all = true;
    for (std::uint64_t i = 0; i < 1000; i++) all = all && spoiled.touches(1000 * i + 9, 1);
    want(all, "none of many is forgotten");
    want(!spoiled.touches(999010, 1000), "and nothing is spoiled behind the last");
    spoiled.heal(0, 1000000);
    want(!spoiled.any(), "and all of them can be healed");

    for (std::uint64_t i = 0; i < 64; i++) spoiled.add(1000 * i, 10);
    spoiled.heal(3, 4);
    want(spoiled.touches(0, 3) && spoiled.touches(7, 3), "without room for two pieces both stay");
    want(spoiled.touches(63000, 10), "and nobody else's is lost by it");
    std::printf("%s\n", failed == 0 ? "all held" : "not all held");
    return failed != 0;
}
