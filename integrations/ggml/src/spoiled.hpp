/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Spoiled memory: bytes on the card that do not hold what ggml wrote, because the write was lost. */
#ifndef JAL_GGML_SPOILED_HPP
#define JAL_GGML_SPOILED_HPP

#include <cstddef>
#include <cstdint>

namespace jal_ggml {

/* Ranges of device addresses. Where there are too many, those between two of them count too. */
class Spoiled {
public:
    bool any() const noexcept { return count_ != 0; }
    bool touches(std::uint64_t address, std::uint64_t bytes) const noexcept;
    /* A write was lost. */
    void add(std::uint64_t address, std::uint64_t bytes) noexcept;
    /* It was written anew, or freed. */
    void heal(std::uint64_t address, std::uint64_t bytes) noexcept;

private:
    static constexpr std::size_t MOST = 64;
    struct Range {
        std::uint64_t begin;
        std::uint64_t end;
    };
    Range ranges_[MOST];
    std::size_t count_ = 0;
};

} // namespace jal_ggml

#endif
