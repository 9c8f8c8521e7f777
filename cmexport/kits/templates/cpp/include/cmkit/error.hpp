#pragma once

#include <limits>
#include <stdexcept>
#include <string>

namespace cmkit {

/// All that can go wrong, in a closed list. The numbers are the C API's.
enum class ErrorKind {
  model_missing = 1,     ///< a file is not where it should be: copy the model folder again
  model_damaged = 2,     ///< a file has another size or SHA-256 than the kit was made for
  runtime = 3,           ///< ONNX Runtime refused; what() has its words
  bad_input = 4,         ///< the caller gave what the model does not take
  cancelled = 5,         ///< the drawing was cancelled
  self_test_failed = 6,  ///< this device draws other pictures than those that were stored
};

/// What every function of a kit throws, and nothing else but std::bad_alloc.
class Error final : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Error(const std::string& message, double decibels)
      : std::runtime_error(message), kind_(ErrorKind::self_test_failed), decibels_(decibels) {}

  ErrorKind kind() const noexcept { return kind_; }

  /// The worst picture's PSNR where the self-test failed; NaN for other errors.
  double decibels() const noexcept { return decibels_; }

 private:
  ErrorKind kind_;
  double decibels_ = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace cmkit
