/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Holds what generate wrote against the reference's vectors (reference.py says what they are).
 *
 *     compare VECTORS.bin count                      how many cases there are
 *     compare VECTORS.bin prompt N                   case N's prompt, to standard output
 *     compare VECTORS.bin check N TEXT LOGITS        what --greedy and --logits wrote for it
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOCABULARY 256u
#define LENGTH 4096u

static void stop(const char *what, const char *name) {
    fprintf(stderr, "error: %s: %s\n", name, what);
    exit(1);
}

static void take(FILE *file, const char *name, void *into, size_t bytes) {
    if (fread(into, 1, bytes, file) != bytes) stop("ends early", name);
}

static uint32_t take32(FILE *file, const char *name) {
    uint32_t v;
    take(file, name, &v, 4);
    return v;
}

static FILE *open_file(const char *name) {
    FILE *file = fopen(name, "rb");
    if (file == NULL) stop("cannot be opened", name);
    return file;
}

int main(int argc, char **argv) {
    static uint8_t want[2 * LENGTH + 1], got[2 * LENGTH + 2];
    float expected[VOCABULARY], computed[VOCABULARY], tolerance;
    uint32_t cases, prompt, text, places, place, n, i;
    double worst = 0;
    char magic[8];
    FILE *vectors, *file, *logits;
    size_t length;
    if (argc < 3) stop("usage: compare VECTORS count | prompt N | check N TEXT LOGITS", "compare");
    vectors = open_file(argv[1]);
    take(vectors, argv[1], magic, 8);
    if (memcmp(magic, "JALVEC01", 8) != 0) stop("no vectors", argv[1]);
    cases = take32(vectors, argv[1]);
    take(vectors, argv[1], &tolerance, 4);
    if (strcmp(argv[2], "count") == 0) return printf("%" PRIu32 "\n", cases) < 0;
    if (argc < 4) stop("which case?", argv[2]);
    n = (uint32_t)strtoul(argv[3], NULL, 10);
    if (n >= cases) stop("no such case", argv[3]);
    for (;; n--) { /* case after case until the one asked for */
        prompt = take32(vectors, argv[1]);
        text = take32(vectors, argv[1]);
        places = take32(vectors, argv[1]);
        if (prompt > LENGTH || text > LENGTH || places == 0) stop("absurd lengths", argv[1]);
        take(vectors, argv[1], want, prompt + text);
        if (n == 0) break;
        if (fseek(vectors, (long)places * (4 + 4 * VOCABULARY), SEEK_CUR) != 0) stop("ends early", argv[1]);
    }
    if (strcmp(argv[2], "prompt") == 0) return fwrite(want, 1, prompt, stdout) != prompt;
    if (strcmp(argv[2], "check") != 0 || argc < 6) stop("unknown, or names missing", argv[2]);

    want[prompt + text] = '\n';
    file = open_file(argv[4]);
    length = fread(got, 1, sizeof got, file);
    for (i = 0; i < prompt + text + 1 && i < length; i++)
        if (want[i] != got[i]) {
            fprintf(stderr, "error: token %" PRIu32 " is %u, not %u\n", i, got[i], want[i]);
            return 1;
        }
    if (length != prompt + text + 1) stop("its length is not the reference's", argv[4]);

    logits = open_file(argv[5]);
    while (places-- > 0) {
        place = take32(vectors, argv[1]);
        take(vectors, argv[1], expected, sizeof expected);
        if (fseek(logits, (long)place * 4 * VOCABULARY, SEEK_SET) != 0) stop("cannot seek", argv[5]);
        take(logits, argv[5], computed, sizeof computed);
        for (i = 0; i < VOCABULARY; i++) {
            double off = fabs((double)computed[i] - (double)expected[i]);
            if (!(off <= (double)tolerance)) { /* also when it is no number */
                fprintf(stderr, "error: position %" PRIu32 ", logit %" PRIu32 ": %g, not %g, off by %g; tolerance %g\n",
                        place, i, (double)computed[i], (double)expected[i], off, (double)tolerance);
                return 1;
            }
            if (off > worst) worst = off;
        }
    }
    printf("%" PRIu32 " tokens alike, logits off by at most %.1e (tolerance %.1e)\n", text, worst, (double)tolerance);
    return 0;
}
