#include "cmkit/picture.hpp"

#include <cmath>
#include <cstddef>
#include <limits>

#include "cmkit/error.hpp"

namespace cmkit {
namespace {

std::uint8_t byte_of(float value) {
  const float level = (value + 1.0F) * 127.5F;
  if (std::isnan(level) || level <= 0.0F) return 0;
  return level >= 255.0F ? 255 : static_cast<std::uint8_t>(std::nearbyint(level));
}

}  // namespace

std::vector<std::uint8_t> rgba(const Picture& picture) {
  const auto channels = static_cast<std::size_t>(picture.channels);
  std::vector<std::uint8_t> out;
  out.reserve(picture.bytes.size() / channels * 4);
  for (std::size_t i = 0; i + channels <= picture.bytes.size(); i += channels) {
    for (std::size_t c = 0; c < 3; ++c) out.push_back(picture.bytes[i + (channels == 1 ? 0 : c)]);
    out.push_back(255);
  }
  return out;
}

Picture from_floats(const float* values, int width, int height, int channels) {
  const auto pixels = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  const auto planes = static_cast<std::size_t>(channels);
  Picture picture{width, height, channels, std::vector<std::uint8_t>(pixels * planes)};
  for (std::size_t plane = 0; plane < planes; ++plane)
    for (std::size_t i = 0; i < pixels; ++i) picture.bytes[i * planes + plane] = byte_of(values[plane * pixels + i]);
  return picture;
}

std::vector<float> to_floats(const Picture& picture) {
  const auto planes = static_cast<std::size_t>(picture.channels);
  const std::size_t pixels = picture.bytes.size() / planes;
  std::vector<float> values(picture.bytes.size());
  for (std::size_t plane = 0; plane < planes; ++plane)
    for (std::size_t i = 0; i < pixels; ++i)
      values[plane * pixels + i] = static_cast<float>(picture.bytes[i * planes + plane]) / 127.5F - 1.0F;
  return values;
}

std::vector<float> kept(const Picture& mask) {
  std::vector<float> values;
  values.reserve(mask.bytes.size());
  for (const std::uint8_t byte : mask.bytes) values.push_back(byte >= 128 ? 1.0F : 0.0F);
  return values;
}

double psnr(const Picture& one, const Picture& other) {
  if (one.width != other.width || one.height != other.height || one.bytes.size() != other.bytes.size())
    throw Error(ErrorKind::bad_input, "two pictures of different size can't be compared");
  double squares = 0;
  for (std::size_t i = 0; i < one.bytes.size(); ++i) {
    const double apart = static_cast<double>(one.bytes[i]) - other.bytes[i];
    squares += apart * apart;
  }
  if (squares == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(one.bytes.size()) / squares);
}

}  // namespace cmkit
