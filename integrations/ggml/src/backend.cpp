/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A backend: computes graphs. A graph that is new goes out as one batch of LAUNCH packets with one
 * doorbell. One that comes again (ggml gives it the same number, or builds it anew to the same bytes) is
 * recorded, and from then on run by one packet. Either way the call waits, so that a failed job is a failed status.
 */
#include <cinttypes>
#include <new>

#include "card.hpp"
#include "log.hpp"
#include "operations.hpp"

namespace jal_ggml {

namespace {

/* Bytes of the longest argument block. */
constexpr std::uint64_t BLOCK_MOST = 64 * (1 + JALAPENO_HW_OPERANDS_MAX);

/* How ggml 0.27 lays out a graph: its headers for backends do not say. What public functions tell of it
 * is compared before the number is believed. */
struct GraphLayout {
    int size;
    int n_nodes;
    int n_leafs;
    ggml_tensor **nodes;
    ggml_tensor **grads;
    ggml_tensor **grad_accs;
    ggml_tensor **leafs;
    std::int32_t *use_counts;
    std::size_t hash_size;
    void *hash_used;
    ggml_tensor **hash_keys;
    int order;
    std::uint64_t uid;
};

/* The number that ggml gives a graph whose nodes stay as they are; 0: none. */
std::uint64_t number_of(ggml_cgraph *graph) noexcept {
    const auto *layout = reinterpret_cast<const GraphLayout *>(graph);
    if (layout->nodes != ggml_graph_nodes(graph) || layout->n_nodes != ggml_graph_n_nodes(graph)) return 0;
    return layout->uid;
}

/* ---- Failures --------------------------------------------------------------------------------- */

/* Cookies: of a staged write, of a recorded graph's packet; a node's packet has the node's number + 1. */
constexpr std::uint64_t A_WRITE = 0;
constexpr std::uint64_t RECORDED = UINT64_MAX;

/* Says which packet it was, by what the card says. */
void say_culprit(const jalapeno_hw_fault_record &fault, ggml_tensor *const *nodes, int count) noexcept {
    const std::uint64_t cookie = fault.cookie;
    if (cookie == A_WRITE) {
        say(GGML_LOG_LEVEL_ERROR, "it was a write before the graph, fault code 0x%x", unsigned{fault.code});
    } else if (cookie == RECORDED) {
        say(GGML_LOG_LEVEL_ERROR, "it was packet %" PRIu64 " of a recorded graph (0: none), fault code 0x%x",
            std::uint64_t{fault.detail[3]}, unsigned{fault.code});
    } else if (cookie <= static_cast<std::uint64_t>(count)) {
        const ggml_tensor *node = nodes[cookie - 1];
        say(GGML_LOG_LEVEL_ERROR, "it was node %" PRIu64 ", %s \"%s\", fault code 0x%x", cookie - 1,
            ggml_op_desc(node), node->name, unsigned{fault.code});
    } else {
        say(GGML_LOG_LEVEL_ERROR, "the card names cookie 0x%" PRIx64 ", which no packet of the graph has, fault code 0x%x",
            cookie, unsigned{fault.code});
    }
}

/* Says what became of a submission that failed, and makes the queue take packets again. */
ggml_status settle(Card &card, jal_status status, ggml_tensor *const *nodes, int count) noexcept {
    say_failure("compute a graph", status);
    jalapeno_hw_fault_record fault{};
    if (jal_queue_fault(card.queue, &fault) == JAL_OK) say_culprit(fault, nodes, count);
    card.settle(status);
    return GGML_STATUS_FAILED;
}

/* ---- A graph that is new ---------------------------------------------------------------------- */

/* A batch that is being filled: packets behind the staged ones, and their blocks in pinned memory. */
struct Batch {
    std::uint32_t first = 0; /* of card.packets */
    std::uint32_t packets = 0;
    std::uint64_t used = 0; /* bytes of the arena */
};

ggml_status send(Card &card, const Batch &batch, ggml_tensor *const *nodes, int count) noexcept {
    const jal_status status = card.send(batch.packets);
    return status == JAL_OK ? GGML_STATUS_SUCCESS : settle(card, status, nodes, count);
}

bool append(Card &card, Batch &batch, const ggml_tensor *node, int number) noexcept {
    Launch launch(card, card.arena_host + batch.used);
    if (!compose(node, launch)) {
        say(GGML_LOG_LEVEL_ERROR, "node %d, %s \"%s\": %s", number, ggml_op_desc(node), node->name, launch.why());
        return false;
    }
    jalapeno_hw_packet &packet = card.packets[batch.first + batch.packets++];
    packet = jal_packet_launch(launch.id(), card.arena_address + batch.used, launch.operands());
    packet.cookie = static_cast<std::uint64_t>(number) + 1;
    batch.used += launch.bytes();
    return true;
}

/* Computes, and leaves the last batch's packets and blocks in place. `batches` counts them. */
ggml_status compute_new(Card &card, ggml_tensor *const *nodes, int count, Batch &last, int &batches) noexcept {
    Batch batch;
    batch.first = card.staged;
    for (int i = 0; i < count; i++) {
        if (nothing_to_run(nodes[i])) continue;
        if (batch.first + batch.packets == card.depth || batch.used + BLOCK_MOST > ARENA_BYTES) {
            batches++;
            const ggml_status status = send(card, batch, nodes, count);
            if (status != GGML_STATUS_SUCCESS) return status;
            batch = Batch{};
        }
        if (!append(card, batch, nodes[i], i)) return GGML_STATUS_FAILED;
    }
    last = batch;
    batches++;
    return batch.packets != 0 ? send(card, batch, nodes, count) : GGML_STATUS_SUCCESS;
}

/* ---- A graph that came again ------------------------------------------------------------------ */

/* Records the packets that were just sent. */
jal_status record(Card &card, const Batch &batch, jal_graph graph) noexcept {
    for (std::uint32_t i = 0; i < batch.packets; i++) {
        const jalapeno_hw_packet &packet = card.packets[batch.first + i];
        const unsigned char *block = card.arena_host + (packet.body[0] - card.arena_address);
        jalapeno_hw_parameters parameters;
        jalapeno_hw_tensor tensors[JALAPENO_HW_OPERANDS_MAX];
        const std::size_t count = static_cast<std::size_t>(packet.body[1]) / 64 - 1;
        std::memcpy(&parameters, block, sizeof parameters);
        std::memcpy(tensors, block + 64, count * sizeof tensors[0]);
        const jal_status status = jal_graph_launch(graph, static_cast<std::uint32_t>(packet.header >> 32), &parameters,
                                                   tensors, count, sizeof tensors[0], nullptr);
        if (status != JAL_OK) return status;
    }
    return jal_graph_finish(graph, nullptr, 0);
}

void forget(Recorded &kept) noexcept {
    if (kept.count != 0) jal_graph_destroy(kept.graph);
    kept.uid = 0;
    kept.count = 0;
    kept.image.clear();
}

/* Keeps the graph that was just computed as a recorded one. False: it cannot be recorded. */
bool keep(Card &card, std::uint64_t uid, ggml_tensor *const *nodes, int count, const Batch &batch) noexcept {
    jal_graph graph{};
    jal_status status = jal_graph_create(card.session, &graph);
    if (status == JAL_OK) {
        status = record(card, batch, graph);
        if (status != JAL_OK) jal_graph_destroy(graph);
    } else if (status == JAL_ERROR_UNSUPPORTED) {
        card.records = false;
    }
    if (status != JAL_OK) {
        say(GGML_LOG_LEVEL_DEBUG, "a graph of %u packets is not recorded: %s", batch.packets, jal_error_detail());
        return false;
    }
    Recorded &place = card.recorded[card.oldest];
    card.oldest = (card.oldest + 1) % GRAPHS;
    forget(place);
    place.uid = uid;
    place.nodes = nodes;
    place.count = count;
    place.image.take(nodes, count);
    place.graph = graph;
    return true;
}

/* Notes that a graph was computed. One that has the number or the looks of an earlier one is recorded. */
void note(Card &card, std::uint64_t uid, ggml_tensor *const *nodes, int count, const Batch &batch) noexcept {
    if (!card.records || batch.packets < 2) return;
    for (Seen &seen : card.seen) {
        const bool numbered = uid != 0 && seen.uid == uid;
        if (!numbered && (seen.count != count || seen.first != nodes[0])) continue;
        if (!numbered) seen.hopeless = false;
        seen.uid = uid;
        if (seen.hopeless || (!numbered && card.unrepeated >= UNREPEATED_MOST)) return;
        if (!numbered) card.unrepeated++;
        seen.hopeless = !keep(card, uid, nodes, count, batch);
        return;
    }
    card.seen[card.oldest_seen] = Seen{uid, nodes[0], count, false};
    card.oldest_seen = (card.oldest_seen + 1) % GRAPHS;
}

/* The recorded graph that is this one: by ggml's number, or because it was built anew and looks the same. */
Recorded *find(Card &card, std::uint64_t uid, ggml_tensor *const *nodes, int count) noexcept {
    if (uid != 0)
        for (Recorded &kept : card.recorded)
            if (kept.uid == uid && kept.nodes == nodes && kept.count == count) return &kept;
    for (Recorded &kept : card.recorded) {
        if (kept.count != count || !kept.image.is(nodes, count)) continue;
        kept.uid = uid;
        kept.nodes = nodes;
        card.unrepeated = 0;
        return &kept;
    }
    return nullptr;
}

/* Runs a recorded graph, staged writes before it. False: a buffer that it names went away. */
bool replay(Card &card, Recorded &kept, ggml_status &result) noexcept {
    jal_status status = jal_graph_get_packet(kept.graph, nullptr, 0, &card.packets[card.staged]);
    if (status == JAL_ERROR_HANDLE) {
        forget(kept);
        return false;
    }
    card.packets[card.staged].cookie = RECORDED;
    if (status == JAL_OK) status = card.send(1);
    result = status == JAL_OK ? GGML_STATUS_SUCCESS : settle(card, status, nullptr, 0);
    return true;
}

/* ---- The backend's table ---------------------------------------------------------------------- */

Card &card_of(ggml_backend_t backend) noexcept { return *static_cast<Card *>(backend->context); }

ggml_status compute_all(Card &card, std::uint64_t uid, ggml_tensor *const *nodes, int count) noexcept {
    if (!card.alive("compute a graph")) return GGML_STATUS_FAILED;
    if (card.failed.exchange(false)) {
        say(GGML_LOG_LEVEL_ERROR, "a copy before this graph failed (see above): it is not computed");
        return GGML_STATUS_FAILED;
    }
    ggml_status status = GGML_STATUS_SUCCESS;
    /* Only operands that are looked at one by one are known not to be spoiled. */
    const bool whole = !card.spoiled.any();
    Recorded *kept = whole ? find(card, uid, nodes, count) : nullptr;
    if (kept != nullptr && replay(card, *kept, status)) return status;
    Batch last;
    int batches = 0;
    status = compute_new(card, nodes, count, last, batches);
    if (status == GGML_STATUS_SUCCESS && whole && batches == 1) note(card, uid, nodes, count, last);
    return status;
}

/* What a graph that failed was to change in memory that outlives it is half changed at best, and not
 * everybody looks at the status: llama.cpp goes on after a shift of its keys that failed. Rows that
 * SET_ROWS was to write are not counted: llama.cpp gives them up itself. */
void spoil_results(Card &card, ggml_tensor *const *nodes, int count) noexcept {
    for (int i = 0; i < count; i++) {
        const ggml_tensor *node = nodes[i];
        const ggml_backend_buffer_t buffer = node->buffer;
        if (nothing_to_run(node) || node->op == GGML_OP_SET_ROWS || buffer == nullptr) continue;
        if (buffer->buft != &card.buffers || buffer->usage == GGML_BACKEND_BUFFER_USAGE_COMPUTE) continue;
        card.spoiled.add(reinterpret_cast<std::uintptr_t>(node->data), ggml_nbytes(node));
    }
}

ggml_status compute(ggml_backend_t backend, ggml_cgraph *graph) {
    Card &card = card_of(backend);
    std::lock_guard<std::mutex> turn(card.computing);
    ggml_tensor *const *nodes = ggml_graph_nodes(graph);
    const int count = ggml_graph_n_nodes(graph);
    const ggml_status status = compute_all(card, number_of(graph), nodes, count);
    if (status != GGML_STATUS_SUCCESS) spoil_results(card, nodes, count);
    return status;
}

const char *backend_name(ggml_backend_t backend) { return card_of(backend).name; }

void backend_free(ggml_backend_t backend) { delete backend; }

ggml_guid_t backend_guid() noexcept {
    static ggml_guid guid = {0x4a, 0x61, 0x6c, 0x61, 0x70, 0x65, 0x6e, 0x6f, 0x9d, 0x1b, 0x42, 0x57, 0xa6, 0x30, 0xe8, 0x11};
    return &guid;
}

} // namespace

ggml_backend_t backend_new(Card *card) noexcept {
    if (!card->ready() || !card->alive("begin a stream")) return nullptr;
    auto *backend = new (std::nothrow) ggml_backend{};
    if (backend == nullptr) return nullptr;
    backend->guid = backend_guid();
    backend->iface.get_name = backend_name;
    backend->iface.free = backend_free;
    backend->iface.graph_compute = compute;
    backend->device = &card->device;
    backend->context = card;
    return backend;
}

} // namespace jal_ggml
