// Photos and masks at the model's size; the model is not opened.
#include "cmkit/photo.hpp"

#include "check.hpp"
#include "cmkit/error.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

void photos_get_the_models_size() {
  // The middle of a wide photo; a flat colour stays what it is.
  cmkit::Picture wide{8, 4, 1, Bytes(32, 90)};
  CHECK(cmkit::fit(wide, 2, 2).bytes == Bytes(4, 90));
  cmkit::Picture columns{4, 2, 1, {1, 2, 3, 4, 5, 6, 7, 8}};
  CHECK(cmkit::fit(columns, 2, 2).bytes == Bytes{2, 3, 6, 7});
  CHECK(cmkit::fit_mask({2, 2, 1, {0, 255, 255, 0}}, 4, 4).bytes ==
        Bytes{0, 0, 255, 255, 0, 0, 255, 255, 255, 255, 0, 0, 255, 255, 0, 0});
  CHECK_ERROR(bad_input, cmkit::fit({4, 2, 3, {1, 2, 3}}, 2, 2));
  CHECK_ERROR(bad_input, cmkit::fit(columns, 0, 2));
}

}  // namespace

int main() { return check::run(photos_get_the_models_size); }
