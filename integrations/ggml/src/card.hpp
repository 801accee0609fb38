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

/* A ggml graph that came again, as the card's own recorded graph. */
struct Recorded {
    std::uint64_t uid = 0; /* 0: none */
    ggml_tensor *const *nodes = nullptr;
    int count = 0;
    jal_graph graph{};
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
    /* A copy that has no status to give failed: the next graph fails. */
    std::atomic<bool> failed{false};

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
    std::uint64_t last_uid = 0;
    Recorded recorded[GRAPHS];
    std::size_t oldest = 0;

    /* Opens it if it is not open. False: it cannot be had, and the log says why. */
    bool ready() noexcept;

    /* All of these are called with `computing` held. */

    /* Takes a small write to `address` along, to be done before whatever is submitted next. */
    jal_status stage(std::uint64_t address, const void *data, std::uint64_t bytes) noexcept;
    /* Submits `packet`, the staged writes before it, with one doorbell; waits. */
    jal_status run(const jalapeno_hw_packet &packet) noexcept;
    /* Submits the staged writes and the `count` packets behind them in `packets`, with one doorbell;
     * waits. The queue of a failure stays stopped: see `settle`. */
    jal_status send(std::uint32_t count) noexcept;
    /* Does the staged writes now. */
    jal_status flush() noexcept { return staged == 0 ? JAL_OK : settle(send(0)); }
    /* Makes the queue take packets again after a failure; gives `status` back. */
    jal_status settle(jal_status status) noexcept;
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
