#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace cmkit {

/// A JSON value (RFC 8259). Asking it for what it isn't throws model_damaged; half a surrogate pair reads as U+FFFD.
class Json {
 public:
  using Members = std::vector<std::pair<std::string, Json>>;

  static Json parse(std::string_view text);
  static Json read(const std::filesystem::path& file) {
    Json found;
    read(file, [&](const Json& whole) { found = whole; });
    return found;
  }
  /// Reads a file and hands it on; what is wrong with it, also for `use`, is told with its name.
  static void read(const std::filesystem::path& file, const std::function<void(const Json&)>& use);

  bool is_null() const noexcept { return std::holds_alternative<std::monostate>(value_); }
  bool boolean() const { return get<bool>("true or false"); }
  double number() const { return get<double>("a number"); }
  /// A number without a fraction, up to 2^53.
  long long integer() const;
  const std::string& string() const { return get<std::string>("a string"); }
  const std::vector<Json>& array() const { return get<std::vector<Json>>("an array"); }
  const Members& members() const { return get<Members>("an object"); }
  /// A member of an object; throws if there is none.
  const Json& operator[](std::string_view name) const;

 private:
  friend class JsonReader;
  template <class T>
  const T& get(const char* wanted) const {
    if (const T* found = std::get_if<T>(&value_)) return *found;
    refuse(wanted);
  }
  [[noreturn]] static void refuse(const char* wanted);

  std::variant<std::monostate, bool, double, std::string, std::vector<Json>, Members> value_;
};

}  // namespace cmkit
