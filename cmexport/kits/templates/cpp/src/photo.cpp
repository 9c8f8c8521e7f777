// Photos at the model's size. The arithmetic is Pillow's (src/libImaging/Resample.c): weights in 22 bits, rows first,
// rounded to bytes in between, so that a kit edits the picture that `cmexport sample --image` would.
#include "cmkit/photo.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "cmkit/error.hpp"

namespace cmkit {
namespace {

constexpr int kPrecision = 22;
constexpr double kPi = 3.14159265358979323846;

double sinc(double x) { return x == 0 ? 1 : std::sin(kPi * x) / (kPi * x); }

double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

/// What one output pixel takes: weights of input pixels from `first` on.
struct Taps {
  int first;
  std::vector<std::int32_t> weights;
};

std::vector<Taps> taps(int from, int to) {
  const double scale = static_cast<double>(from) / to, wide = std::max(scale, 1.0), reach = 3 * wide;
  std::vector<Taps> all;
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - reach + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + reach + 0.5), from);
    std::vector<double> weights;
    double sum = 0;
    for (int x = first; x < last; ++x) sum += weights.emplace_back(lanczos((x - centre + 0.5) / wide));
    Taps one{first, {}};
    for (const double weight : weights) {
      const double fixed = weight / sum * (1 << kPrecision);
      one.weights.push_back(static_cast<std::int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
    all.push_back(std::move(one));
  }
  return all;
}

std::uint8_t rounded(std::int64_t sum) {
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> kPrecision, 0, 255));
}

/// Resizes along one axis. `step`: bytes from a pixel to the next one along it; `lines`: where each line begins.
void resize_line(const std::vector<Taps>& all, const std::uint8_t* in, std::ptrdiff_t in_step, std::uint8_t* out,
                 std::ptrdiff_t out_step) {
  for (const Taps& one : all) {
    std::int64_t sum = 1 << (kPrecision - 1);
    const std::uint8_t* pixel = in + one.first * in_step;
    for (const std::int32_t weight : one.weights) {
      sum += static_cast<std::int64_t>(weight) * *pixel;
      pixel += in_step;
    }
    *out = rounded(sum);
    out += out_step;
  }
}

Picture resized(const Picture& photo, int width, int height) {
  const std::ptrdiff_t channels = photo.channels;
  Picture rows{width, photo.height, photo.channels, {}};
  rows.bytes.resize(static_cast<std::size_t>(channels * width * photo.height));
  const std::vector<Taps> across = taps(photo.width, width), down = taps(photo.height, height);
  for (std::ptrdiff_t y = 0; y < photo.height; ++y)
    for (std::ptrdiff_t c = 0; c < channels; ++c)
      resize_line(across, photo.bytes.data() + y * photo.width * channels + c, channels,
                  rows.bytes.data() + y * width * channels + c, channels);
  Picture out{width, height, photo.channels, {}};
  out.bytes.resize(static_cast<std::size_t>(channels * width * height));
  for (std::ptrdiff_t x = 0; x < width * channels; ++x)
    resize_line(down, rows.bytes.data() + x, width * channels, out.bytes.data() + x, width * channels);
  return out;
}

void require(const Picture& picture, int width, int height) {
  const bool sound = picture.width > 0 && picture.height > 0 && picture.channels > 0 && width > 0 && height > 0 &&
                     picture.bytes.size() == static_cast<std::size_t>(picture.width) *
                                                 static_cast<std::size_t>(picture.height) *
                                                 static_cast<std::size_t>(picture.channels);
  if (!sound) throw Error(ErrorKind::bad_input, "a picture's bytes do not match its width, height and channels");
}

int share(std::int64_t length, int numerator, int denominator) {
  // Half to even, as Python's round() in cmexport.
  const double exact = static_cast<double>(length * numerator) / denominator;
  return std::max(1, static_cast<int>(std::nearbyint(exact)));
}

/// The largest middle part with the shape width : height.
Picture middle(const Picture& photo, int width, int height) {
  int part_width = photo.width, part_height = photo.height;
  if (static_cast<std::int64_t>(photo.width) * height >= static_cast<std::int64_t>(photo.height) * width)
    part_width = share(photo.height, width, height);
  else
    part_height = share(photo.width, height, width);
  const int left = (photo.width - part_width) / 2, top = (photo.height - part_height) / 2;
  Picture part{part_width, part_height, photo.channels, {}};
  for (std::ptrdiff_t y = top; y < top + part_height; ++y) {
    const auto begin = photo.bytes.begin() + (y * photo.width + left) * photo.channels;
    part.bytes.insert(part.bytes.end(), begin, begin + static_cast<std::ptrdiff_t>(part_width) * photo.channels);
  }
  return part;
}

}  // namespace

Picture fit(const Picture& photo, int width, int height) {
  require(photo, width, height);
  Picture part = middle(photo, width, height);
  return part.width == width && part.height == height ? part : resized(part, width, height);
}

Picture fit_mask(const Picture& mask, int width, int height) {
  require(mask, width, height);
  const Picture part = middle(mask, width, height);
  Picture out{width, height, mask.channels, {}};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const auto from_y = static_cast<std::ptrdiff_t>((y + 0.5) * part.height / height);
      const auto from_x = static_cast<std::ptrdiff_t>((x + 0.5) * part.width / width);
      const auto begin = part.bytes.begin() + (from_y * part.width + from_x) * part.channels;
      out.bytes.insert(out.bytes.end(), begin, begin + part.channels);
    }
  return out;
}

}  // namespace cmkit
