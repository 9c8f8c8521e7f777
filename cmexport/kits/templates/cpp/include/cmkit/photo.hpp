#pragma once

#include "cmkit/picture.hpp"

namespace cmkit {

/// The largest middle part of the new shape, resized as Pillow does with LANCZOS: a photo for the model. Throws
/// bad_input.
Picture fit(const Picture& photo, int width, int height);

/// The same part of a mask, without blending. Throws bad_input.
Picture fit_mask(const Picture& mask, int width, int height);

}  // namespace cmkit
