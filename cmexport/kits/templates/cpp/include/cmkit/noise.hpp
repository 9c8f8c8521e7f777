#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// The noise `cmx1`: the same bits from the same seed in every kit, on every processor.
///
/// Philox4x32-10 (Salmon et al. 2011) makes words, the inverse normal distribution of AS 241 (Wichura 1988) makes one
/// value of each word, in float64 with + - * / and square roots alone.
namespace cmkit {

using Words = std::array<std::uint32_t, 4>;

/// Four random words for a counter and a key.
Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) noexcept;

/// The standard normal value of a word; it grows with the word.
float normal(std::uint32_t word) noexcept;

/// `count` standard normal values, C order of one picture's (C, H, W). Stream 0 is the graph's input `noise`, stream k
/// is `renoise[k - 1]`.
void noise(std::uint64_t seed, std::uint32_t stream, float* values, std::size_t count) noexcept;

}  // namespace cmkit
