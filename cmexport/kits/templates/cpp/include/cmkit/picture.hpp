#pragma once

#include <cstdint>
#include <vector>

namespace cmkit {

/// Bytes of sRGB, or of grey, row by row from the top left. A mask is a picture of one channel: 128 and more is kept.
struct Picture {
  int width = 0;
  int height = 0;
  int channels = 3;
  std::vector<std::uint8_t> bytes;
};

/// Grey or RGB as RGBA with full opacity, what graphics libraries take.
std::vector<std::uint8_t> rgba(const Picture& picture);

/// Values (C, H, W) in [-1, 1] to bytes: rint((x + 1) * 127.5) in float32, half to even, NaN becomes 0.
Picture from_floats(const float* values, int width, int height, int channels);

/// Bytes to values (C, H, W): byte / 127.5 - 1 in float32.
std::vector<float> to_floats(const Picture& picture);

/// 1 where a mask keeps, 0 elsewhere, (1, H, W).
std::vector<float> kept(const Picture& mask);

/// PSNR in dB over bytes, peak 255; infinite without a difference. Throws bad_input if the sizes differ.
double psnr(const Picture& one, const Picture& other);

}  // namespace cmkit
