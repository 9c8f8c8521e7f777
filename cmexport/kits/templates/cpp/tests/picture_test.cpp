// Bytes, values and sizes of pictures; the model is not opened.
#include "cmkit/picture.hpp"

#include <cmath>
#include <limits>

#include "check.hpp"
#include "cmkit/error.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

void values_become_bytes() {
  // Planes (C, H, W) of a picture 2 wide and 3 high: red counts along rows, green and blue are out of range or odd.
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const float values[] = {-1.0F,  -0.5F,    0.0F, 0.5F, 1.0F, 2.0F,       //
                          -9.0F,  infinity, nan,  0.0F, 0.0F, -infinity,  //
                          -0.99F, 0.0F,     0.0F, 0.0F, 0.0F, 1.5F / 127.5F};
  const cmkit::Picture picture = cmkit::from_floats(values, 2, 3, 3);
  CHECK(picture.width == 2 && picture.height == 3 && picture.channels == 3);
  // 127.5 lies between two bytes: the even one is taken.
  CHECK(picture.bytes == Bytes{0, 0, 1, 64, 255, 128, 128, 0, 128, 191, 128, 128, 255, 128, 128, 255, 0, 129});
}

void bytes_come_back() {
  cmkit::Picture picture{16, 16, 3, {}};
  for (int i = 0; i < 256; ++i)
    for (int c = 0; c < 3; ++c) picture.bytes.push_back(static_cast<std::uint8_t>((i * (c + 1)) % 256));
  const std::vector<float> values = cmkit::to_floats(picture);
  CHECK(values[0] == -1.0F && values[255] == 1.0F);
  CHECK(values[1] == 1.0F / 127.5F - 1.0F && values[256 + 1] == 2.0F / 127.5F - 1.0F);
  CHECK(cmkit::from_floats(values.data(), 16, 16, 3).bytes == picture.bytes);
}

void masks_keep_from_128_on() { CHECK(cmkit::kept({2, 2, 1, {0, 127, 128, 255}}) == std::vector<float>{0, 0, 1, 1}); }

void screens_take_rgba() {
  CHECK(cmkit::rgba({1, 2, 3, {1, 2, 3, 4, 5, 6}}) == Bytes{1, 2, 3, 255, 4, 5, 6, 255});
  CHECK(cmkit::rgba({2, 1, 1, {7, 9}}) == Bytes{7, 7, 7, 255, 9, 9, 9, 255});
}

void differences_are_told() {
  const cmkit::Picture black{2, 1, 3, {0, 0, 0, 0, 0, 0}}, white{2, 1, 3, {255, 255, 255, 255, 255, 255}};
  CHECK(std::isinf(cmkit::psnr(black, black)));
  CHECK(cmkit::psnr(black, white) == 0);
  CHECK(std::fabs(cmkit::psnr(black, {2, 1, 3, {1, 1, 1, 1, 1, 1}}) - 48.1308) < 1e-4);
  CHECK_ERROR(bad_input, cmkit::psnr(black, {1, 2, 3, {0, 0, 0, 0, 0, 0}}));
}

}  // namespace

int main() {
  return check::run([] {
    values_become_bytes();
    bytes_come_back();
    masks_keep_from_128_on();
    screens_take_rgba();
    differences_are_told();
  });
}
