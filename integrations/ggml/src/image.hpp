/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* An image of a ggml graph: whether another one is the same, byte for byte, though it was built anew. */
#ifndef JAL_GGML_IMAGE_HPP
#define JAL_GGML_IMAGE_HPP

#include <cstddef>
#include <vector>

#include <ggml.h>

namespace jal_ggml {

class Image {
public:
    /* Of nodes and their sources as they are now. */
    void take(ggml_tensor *const *nodes, int count);
    void clear() noexcept;
    /* Whether nodes are the same tensors, and they and their sources as they were. */
    bool is(ggml_tensor *const *nodes, int count) const noexcept;

private:
    /* Tensors that lie one behind the other, as in a context of ggml's. */
    struct Run {
        const ggml_tensor *begin;
        std::size_t bytes;
        std::size_t at; /* in `bytes_` */
    };
    void take_runs(std::vector<const ggml_tensor *> &tensors);

    std::vector<ggml_tensor *> nodes_;
    /* The nodes' runs first: where they are the same, so are the pointers to the other sources, which are
     * not followed before that is known. */
    std::vector<Run> runs_;
    std::vector<unsigned char> bytes_;
};

} // namespace jal_ggml

#endif
