/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "image.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

namespace jal_ggml {

namespace {

std::uintptr_t place(const ggml_tensor *tensor) noexcept { return reinterpret_cast<std::uintptr_t>(tensor); }

void sort(std::vector<const ggml_tensor *> &tensors) {
    std::sort(tensors.begin(), tensors.end(), [](auto a, auto b) { return place(a) < place(b); });
    tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
}

} // namespace

void Image::take_runs(std::vector<const ggml_tensor *> &tensors) {
    const std::size_t first = runs_.size();
    std::uintptr_t next = 0; /* where the next one of the run would be */
    for (const ggml_tensor *tensor : tensors) {
        if (place(tensor) != next) runs_.push_back({tensor, 0, 0});
        runs_.back().bytes = place(tensor) + sizeof *tensor - place(runs_.back().begin);
        next = place(tensor) + ggml_tensor_overhead();
    }
    for (std::size_t i = first; i < runs_.size(); i++) {
        runs_[i].at = bytes_.size();
        const auto *from = reinterpret_cast<const unsigned char *>(runs_[i].begin);
        bytes_.insert(bytes_.end(), from, from + runs_[i].bytes);
    }
}

void Image::take(ggml_tensor *const *nodes, int count) {
    clear();
    nodes_.assign(nodes, nodes + count);
    std::vector<const ggml_tensor *> inner(nodes, nodes + count), sources, outer;
    for (const ggml_tensor *node : inner)
        for (const ggml_tensor *source : node->src)
            if (source != nullptr) sources.push_back(source);
    sort(inner);
    sort(sources);
    const auto before = [](auto a, auto b) { return place(a) < place(b); };
    std::set_difference(sources.begin(), sources.end(), inner.begin(), inner.end(), std::back_inserter(outer), before);
    take_runs(inner);
    take_runs(outer);
}

void Image::clear() noexcept {
    nodes_.clear();
    runs_.clear();
    bytes_.clear();
}

bool Image::is(ggml_tensor *const *nodes, int count) const noexcept {
    const auto wanted = static_cast<std::size_t>(count);
    if (wanted != nodes_.size() || wanted == 0) return false;
    if (std::memcmp(nodes, nodes_.data(), wanted * sizeof *nodes) != 0) return false;
    for (const Run &run : runs_)
        if (std::memcmp(run.begin, bytes_.data() + run.at, run.bytes) != 0) return false;
    return true;
}

} // namespace jal_ggml
