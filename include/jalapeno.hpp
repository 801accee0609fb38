/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libjalapeno for C++17: handles that own what they name, failures as exceptions.
 *
 * Each class owns one handle of jalapeno.h, can be moved and not copied, and gives the handle back
 * when it goes. The functions, their threads and their errors are those of jalapeno.h; this header
 * adds nothing but ownership. Where a failure is expected, ask for the status: try_*.
 */
#ifndef JALAPENO_HPP
#define JALAPENO_HPP

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "jalapeno.h"

namespace jalapeno {

/* A call failed. what() is the detail, or the status in words. */
class error : public std::runtime_error {
public:
    explicit error(jal_status status)
        : std::runtime_error(text(status)), status_(status), hint_(jal_error_hint()) {}
    jal_status status() const noexcept { return status_; }
    /* What to do; may be empty. */
    const std::string &hint() const noexcept { return hint_; }

private:
    static std::string text(jal_status status) {
        std::string words = jal_status_string(status);
        const char *detail = jal_error_detail();
        return *detail != '\0' ? words + ": " + detail : words;
    }
    jal_status status_;
    std::string hint_;
};

/* Throws unless `status` is JAL_OK. */
inline void check(jal_status status) {
    if (status != JAL_OK) throw error(status);
}

/* Throws where header and library do not fit. */
inline void check_version() { check(jal_check_version(JAL_VERSION)); }

/* Owns one handle; `Close` gives it back. */
template <typename Handle, jal_status (*Close)(Handle)>
class owned {
public:
    owned() noexcept : handle_{0} {}
    explicit owned(Handle handle) noexcept : handle_(handle) {}
    owned(owned &&other) noexcept : handle_(other.release()) {}
    owned &operator=(owned &&other) noexcept {
        if (this != &other) {
            reset();
            handle_ = other.release();
        }
        return *this;
    }
    owned(const owned &) = delete;
    owned &operator=(const owned &) = delete;
    ~owned() { reset(); }

    /* The handle, still owned. */
    Handle get() const noexcept { return handle_; }
    explicit operator bool() const noexcept { return handle_.id != 0; }
    /* The handle, owned by the caller from now on. */
    Handle release() noexcept { return std::exchange(handle_, Handle{0}); }
    /* Gives the handle back now; the status says whether that went well. What cannot be given back
     * (a buffer in use) stays owned. */
    jal_status reset() noexcept {
        if (handle_.id == 0) return JAL_OK;
        jal_status status = Close(handle_);
        if (status != JAL_ERROR_BUSY) handle_.id = 0;
        return status;
    }

private:
    Handle handle_;
};

/* Memory that packets can name. */
class buffer : public owned<jal_buffer, jal_buffer_free> {
public:
    using owned::owned;
    jal_buffer_info info() const {
        jal_buffer_info info{};
        info.struct_size = sizeof info;
        check(jal_buffer_get_info(get(), &info));
        return info;
    }
    /* As packets name it. */
    std::uint64_t address() const { return info().address; }
    std::uint64_t bytes() const { return info().bytes; }
    /* The host's pointer; null for device memory. */
    template <typename T = void>
    T *host() const {
        return static_cast<T *>(info().host);
    }
    void write(std::uint64_t offset, const void *from, std::uint64_t bytes) const {
        check(jal_buffer_write(get(), offset, from, bytes));
    }
    void read(std::uint64_t offset, void *into, std::uint64_t bytes) const {
        check(jal_buffer_read(get(), offset, into, bytes));
    }
};

/* A timeline fence. */
class fence : public owned<jal_fence, jal_fence_destroy> {
public:
    using owned::owned;
    std::uint64_t address() const {
        std::uint64_t address = 0;
        check(jal_fence_address(get(), &address));
        return address;
    }
    std::uint64_t value() const {
        std::uint64_t value = 0;
        check(jal_fence_value(get(), &value));
        return value;
    }
    void signal(std::uint64_t value) const { check(jal_fence_signal(get(), value)); }
    void wait(std::uint64_t value, std::int64_t timeout_ns = JAL_FOREVER) const {
        check(jal_fence_wait(get(), value, timeout_ns));
    }
};

/* An in-order queue. */
class queue : public owned<jal_queue, jal_queue_destroy> {
public:
    using owned::owned;
    std::uint64_t submit(const jalapeno_hw_packet &packet) const {
        std::uint64_t sequence = 0;
        check(jal_submit_one(get(), &packet, &sequence));
        return sequence;
    }
    std::uint64_t submit(const jalapeno_hw_packet *packets, std::size_t count) const {
        std::uint64_t sequence = 0;
        check(jal_submit(get(), packets, count, sizeof *packets, &sequence));
        return sequence;
    }
    std::uint64_t submit(const std::vector<jalapeno_hw_packet> &packets) const {
        return submit(packets.data(), packets.size());
    }
    /* JAL_ERROR_AGAIN when the queue is full. */
    jal_status try_submit(const jalapeno_hw_packet &packet, std::uint64_t &sequence) const noexcept {
        return jal_submit_one(get(), &packet, &sequence);
    }
    std::uint64_t poll() const {
        std::uint64_t sequence = 0;
        check(jal_poll(get(), &sequence));
        return sequence;
    }
    std::size_t reap(jal_completion *out, std::size_t capacity) const {
        std::size_t count = 0;
        check(jal_reap(get(), out, capacity, sizeof *out, &count));
        return count;
    }
    void wait(std::uint64_t sequence, std::int64_t timeout_ns = JAL_FOREVER) const {
        check(jal_wait(get(), sequence, timeout_ns));
    }
    jal_status try_wait(std::uint64_t sequence, std::int64_t timeout_ns) const noexcept {
        return jal_wait(get(), sequence, timeout_ns);
    }
    /* What a finished job took; for queues made with JAL_QUEUE_PROFILE. */
    jal_stats stats(std::uint64_t sequence) const {
        jal_stats out{};
        out.struct_size = sizeof out;
        check(jal_job_stats(get(), sequence, &out));
        return out;
    }
    /* Stays the library's. */
    int event_fd() const {
        int fd = -1;
        check(jal_queue_event_fd(get(), &fd));
        return fd;
    }
    void arm(std::uint64_t sequence) const { check(jal_queue_arm(get(), sequence)); }
    jalapeno_hw_fault_record fault() const {
        jalapeno_hw_fault_record record{};
        check(jal_queue_fault(get(), &record));
        return record;
    }
    void resume() const { check(jal_queue_resume(get())); }
    void cancel(std::int64_t timeout_ns) const { check(jal_queue_cancel(get(), timeout_ns)); }
    jal_queue_counters counters() const {
        jal_queue_counters counters{};
        counters.struct_size = sizeof counters;
        check(jal_queue_get_counters(get(), &counters));
        return counters;
    }
};

/* A recorded graph: add, launch, patch, finish, then replay. */
class graph : public owned<jal_graph, jal_graph_destroy> {
public:
    using owned::owned;
    std::uint32_t add(const jalapeno_hw_packet &packet) const {
        std::uint32_t step = 0;
        check(jal_graph_add(get(), &packet, &step));
        return step;
    }
    std::uint32_t launch(std::uint32_t kernel, const jalapeno_hw_parameters &parameters,
                         const std::vector<jalapeno_hw_tensor> &tensors) const {
        std::uint32_t step = 0;
        check(jal_graph_launch(get(), kernel, &parameters, tensors.data(), tensors.size(),
                               sizeof(jalapeno_hw_tensor), &step));
        return step;
    }
    void patch(std::uint32_t step, std::uint32_t place, std::uint32_t offset, std::uint32_t width,
               std::uint32_t value, std::uint64_t scale = 1) const {
        const jal_patch patch{sizeof patch, step, place, offset, width, value, scale};
        check(jal_graph_patch(get(), &patch));
    }
    void finish(const std::vector<std::uint32_t> &limits = {}) const {
        check(jal_graph_finish(get(), limits.data(), limits.size()));
    }
    std::uint64_t replay(const jalapeno::queue &queue,
                         const std::vector<std::uint32_t> &values = {}) const {
        std::uint64_t sequence = 0;
        check(jal_graph_replay(get(), queue.get(), values.data(), values.size(), &sequence));
        return sequence;
    }
};

/* A client's context on a device. */
class session : public owned<jal_session, jal_session_destroy> {
public:
    using owned::owned;
    buffer host_memory(std::uint64_t bytes, std::uint32_t flags = 0) const {
        jal_buffer handle{};
        check(jal_host_alloc(get(), bytes, flags, &handle));
        return buffer(handle);
    }
    /* `memory` outlives the buffer. */
    buffer register_memory(void *memory, std::uint64_t bytes, std::uint32_t flags = 0) const {
        jal_buffer handle{};
        check(jal_host_register(get(), memory, bytes, flags, &handle));
        return buffer(handle);
    }
    buffer device_memory(std::uint64_t bytes) const {
        jal_buffer handle{};
        check(jal_device_alloc(get(), bytes, &handle));
        return buffer(handle);
    }
    jal_memory_use memory_use() const {
        jal_memory_use use{};
        use.struct_size = sizeof use;
        check(jal_session_get_memory_use(get(), &use));
        return use;
    }
    /* Device memory of another card, for jobs of this one. */
    buffer peer_memory(const buffer &of) const {
        jal_buffer handle{};
        check(jal_peer_map(get(), of.get(), &handle));
        return buffer(handle);
    }
    jalapeno::queue queue(std::uint32_t depth = 0, std::uint32_t flags = 0,
                          std::uint32_t priority = JAL_PRIORITY_NORMAL) const {
        jal_queue_options options{};
        options.struct_size = sizeof options;
        options.depth = depth;
        options.flags = flags;
        options.priority = priority;
        jal_queue handle{};
        check(jal_queue_create(get(), &options, &handle));
        return jalapeno::queue(handle);
    }
    /* Starts to record. */
    jalapeno::graph graph() const {
        jal_graph handle{};
        check(jal_graph_create(get(), &handle));
        return jalapeno::graph(handle);
    }
    jalapeno::fence fence(std::uint64_t initial = 0) const {
        jal_fence handle{};
        check(jal_fence_create(get(), initial, &handle));
        return jalapeno::fence(handle);
    }
};

/* A device; what was made from it turns stale when it goes. */
class device : public owned<jal_device, jal_device_close> {
public:
    using owned::owned;
    /* By UUID, PCI address or vfio-user:PATH; null: the only device there is. */
    static device open(const char *name = nullptr, std::uint32_t role = JAL_ROLE_COMPUTE) {
        jal_open_options options{};
        options.struct_size = sizeof options;
        options.role = role;
        jal_device handle{};
        check(jal_device_open(name, &options, &handle));
        return device(handle);
    }
    static std::vector<jal_device_summary> list() {
        std::vector<jal_device_summary> devices;
        std::size_t count = 0;
        check(jal_device_list(nullptr, 0, sizeof(jal_device_summary), &count));
        do { /* more may have come meanwhile */
            devices.resize(count);
            check(jal_device_list(devices.data(), devices.size(), sizeof(jal_device_summary), &count));
        } while (count > devices.size());
        devices.resize(count);
        return devices;
    }
    jal_device_info info() const {
        jal_device_info info{};
        info.struct_size = sizeof info;
        check(jal_device_get_info(get(), &info));
        return info;
    }
    std::vector<jal_telemetry> telemetry() const {
        std::vector<jal_telemetry> entries;
        std::size_t count = 0;
        check(jal_device_telemetry(get(), nullptr, 0, sizeof(jal_telemetry), &count));
        do {
            entries.resize(count);
            check(jal_device_telemetry(get(), entries.data(), entries.size(), sizeof(jal_telemetry), &count));
        } while (count > entries.size());
        entries.resize(count);
        return entries;
    }
    jal_clock clock() const {
        jal_clock clock{};
        clock.struct_size = sizeof clock;
        check(jal_device_clock(get(), &clock));
        return clock;
    }
    void reset(std::uint32_t level, std::int64_t timeout_ns) const {
        check(jal_device_reset(get(), level, timeout_ns));
    }
    /* Readable when the host wants the device back; the caller's to close. */
    int wanted_fd() const {
        int fd = -1;
        check(jal_device_wanted_fd(get(), &fd));
        return fd;
    }
    /* Gives it back, and closes it with all that was made from it; what stands for those is stale. */
    void give_back(std::int64_t timeout_ns) const {
        check(jal_device_give_back(get(), timeout_ns));
    }
    jalapeno::session session() const {
        jal_session handle{};
        check(jal_session_create(get(), &handle));
        return jalapeno::session(handle);
    }
};

} // namespace jalapeno

#endif /* JALAPENO_HPP */
