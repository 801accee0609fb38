/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A card as ggml sees it: one device "JALn", opened when it is first needed, with one queue. */
#ifndef JAL_GGML_CARD_HPP
#define JAL_GGML_CARD_HPP

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include <ggml-backend-impl.h>
#include <jalapeno.h>

#include "image.hpp"
#include "spoiled.hpp"

namespace jal_ggml {

/* Packets of one submission at most; a longer ggml graph takes several. */
constexpr std::uint32_t DEPTH = 4096;
/* Pinned memory for the argument blocks of one submission. */
constexpr std::uint64_t ARENA_BYTES = 2u << 20;
/* Pinned memory behind it for small writes, which go out with the next graph. */
constexpr std::uint64_t STAGE_BYTES = 256u << 10;
/* Longest write that is staged; a longer one is copied at once. */
constexpr std::uint64_t STAGED_MOST = 64u << 10;
/* Recorded graphs that are kept. */
constexpr std::size_t GRAPHS = 16;
/* Graphs that are recorded for their looks alone, without one of them coming again. */
constexpr unsigned UNREPEATED_MOST = 8;

/* A ggml graph that came again, as the card's own recorded graph. */
struct Recorded {
    std::uint64_t uid = 0; /* ggml's number for it; 0: none */
    ggml_tensor *const *nodes = nullptr;
    int count = 0; /* 0: there is none */
    Image image;   /* by which it is known when it was built anew */
    jal_graph graph{};
};

/* A graph that was computed lately and was not recorded then. */
struct Seen {
    std::uint64_t uid = 0;
    const ggml_tensor *first = nullptr;
    int count = 0;         /* 0: none */
    bool hopeless = false; /* it came again and could not be recorded */
};

struct Card {
    char name[16] = "";
    char description[128] = "";
    char where[256] = ""; /* as jal_device_open() takes it */

    ggml_backend_device device{};
    ggml_backend_buffer_type buffers{};

    std::mutex opening;
    std::atomic<bool> open{false};
    jal_device handle{};
    jal_session session{};
    std::uint64_t hbm_bytes = 0;
    std::atomic<std::uint64_t> taken{0}; /* bytes of HBM in ggml's buffers */
    /* A copy that has no status to give failed or was refused: the next graph fails. */
    std::atomic<bool> failed{false};
    /* Its queue could not be had back: it may still touch pinned memory, so nothing is done any more. */
    std::atomic<bool> dead{false};

    /* What follows belongs to whoever computes a graph. */
    std::mutex computing;
    jal_queue queue{};
    jal_buffer arena{};
    unsigned char *arena_host = nullptr;
    std::uint64_t arena_address = 0;
    std::uint32_t depth = 0;
    std::vector<jalapeno_hw_packet> packets; /* the batch that is being filled: `staged` copies first */
    std::uint32_t staged = 0;
    std::uint64_t stage_used = 0;
    std::uint32_t sent = 0;      /* packets of the last submission */
    std::uint64_t sequence = 0;  /* number of the last of them; 0: refused, or all were done */
    Spoiled spoiled;        /* what writes were lost of: no graph may read it */
    Seen seen[GRAPHS];
    std::size_t oldest_seen = 0;
    Recorded recorded[GRAPHS];
    std::size_t oldest = 0;
    bool records = true;         /* until the device turns out to have no graphs */
    unsigned unrepeated = 0;     /* graphs recorded for their looks since one of them came again */

    /* Opens it if it is not open. False: it cannot be had, and the log says why. */
    bool ready() noexcept;
    /* False: it was given up, and a line says that `what` was not done. */
    bool alive(const char *what) const noexcept;

    /* All of these are called with `computing` held. */

    /* Takes a small write to `address` along, to be done before whatever is submitted next. */
    void stage(std::uint64_t address, const void *data, std::uint64_t bytes) noexcept;
    /* Submits a copy or fill, the staged writes before it, with one doorbell; waits. Tries once more
     * where it failed. False: it was not done, and the log says why. */
    bool run(const char *what, const jalapeno_hw_packet &packet) noexcept;
    /* Submits the staged writes and the `count` packets behind them in `packets`, with one doorbell;
     * waits. After a failure the queue stays stopped and the writes stay staged: see `settle`. */
    jal_status send(std::uint32_t count) noexcept;
    /* Does the staged writes now. */
    void flush() noexcept;
    /* After a failure: makes the queue take packets again, and does those of the staged writes that were
     * not done, alone. What then fails is spoiled, and the log says so. */
    void settle(jal_status status) noexcept;

private:
    /* Makes the queue take packets again. False: it cannot, and the card is given up. */
    bool resume(jal_status status) noexcept;
    /* Forgets those of the staged writes of the last submission that were done. */
    void drop_done() noexcept;
};

/* A buffer of device memory: `address` is no pointer that the host may follow. */
struct Memory {
    Card *card;
    jal_buffer handle;
    std::uint64_t address;
    std::uint64_t bytes;
};

/* The table of buffer types on a card; its context is the card. */
ggml_backend_buffer_type_i buffer_type_table() noexcept;

/* A stream of graphs on a card; null, and a line in the log, where it cannot be had. */
ggml_backend_t backend_new(Card *card) noexcept;

} // namespace jal_ggml

#endif
