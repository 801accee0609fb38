/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "spoiled.hpp"

#include <algorithm>

namespace jal_ggml {

bool Spoiled::touches(std::uint64_t address, std::uint64_t bytes) const noexcept {
    return std::any_of(ranges_, ranges_ + count_, [=](const Range &range) {
        return range.begin < address + bytes && address < range.end;
    });
}

void Spoiled::add(std::uint64_t address, std::uint64_t bytes) noexcept {
    if (bytes == 0) return;
    Range whole{address, address + bytes};
    if (count_ == MOST) { /* no room: one range from the first to the last */
        for (const Range &range : ranges_)
            whole = {std::min(whole.begin, range.begin), std::max(whole.end, range.end)};
        count_ = 0;
    }
    ranges_[count_++] = whole;
}

void Spoiled::heal(std::uint64_t address, std::uint64_t bytes) noexcept {
    const std::uint64_t end = address + bytes;
    const std::size_t before = count_;
    Range old[MOST];
    std::copy(ranges_, ranges_ + before, old);
    count_ = 0;
    for (std::size_t i = 0; i < before; i++) {
        const Range range = old[i];
        const bool apart = end <= range.begin || range.end <= address;
        const bool head = range.begin < address, tail = end < range.end;
        const std::size_t left = before - i - 1;
        if (apart || (head && tail && count_ + 2 + left > MOST)) { /* no room for two pieces: it stays */
            ranges_[count_++] = range;
            continue;
        }
        if (head) ranges_[count_++] = {range.begin, address};
        if (tail) ranges_[count_++] = {end, range.end};
    }
}

} // namespace jal_ggml
