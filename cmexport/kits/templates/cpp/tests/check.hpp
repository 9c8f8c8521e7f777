#pragma once

#include <exception>
#include <filesystem>
#include <iostream>

/// Assertions that stay in release builds, and the folder that the kit lies in.
namespace check {

inline int failures = 0;

inline void that(bool holds, const char* what, const char* file, int line) {
  if (holds) return;
  std::cerr << file << ":" << line << ": " << what << "\n";
  ++failures;
}

inline std::filesystem::path kit() { return KIT_FOLDER; }

/// Runs a test; the result of main.
template <class Test>
int run(Test test) {
  try {
    test();
  } catch (const std::exception& error) {
    std::cerr << "ended with: " << error.what() << "\n";
    return 1;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(...) check::that((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

/// The expression throws cmkit::Error of that kind.
#define CHECK_ERROR(wanted, ...)                                                             \
  try {                                                                                      \
    __VA_ARGS__;                                                                             \
    check::that(false, #__VA_ARGS__ " does not throw", __FILE__, __LINE__);                  \
  } catch (const cmkit::Error& error) {                                                      \
    check::that(error.kind() == cmkit::ErrorKind::wanted, error.what(), __FILE__, __LINE__); \
  }
