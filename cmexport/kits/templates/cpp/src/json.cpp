#include "json.hpp"

#include <cmath>
#include <cstdint>
#include <locale>
#include <sstream>

#include "files.hpp"
#include "utf8.hpp"

namespace cmkit {
namespace {

constexpr int kDeepest = 64;

[[noreturn]] void damaged(const std::string& what) { throw Error(ErrorKind::model_damaged, what); }

}  // namespace

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json whole() {
    Json found = value(0);
    space();
    if (at_ != text_.size()) fail();
    return found;
  }

 private:
  [[noreturn]] void fail() const { damaged("is no JSON: see byte " + std::to_string(at_)); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void need(std::string_view word) {
    if (!take(word)) fail();
  }

  Json value(int depth) {
    if (depth > kDeepest) fail();
    space();
    Json found;
    if (take("{")) {
      found.value_ = object(depth);
    } else if (take("[")) {
      found.value_ = array(depth);
    } else if (peek() == '"') {
      found.value_ = string();
    } else if (take("true")) {
      found.value_ = true;
    } else if (take("false")) {
      found.value_ = false;
    } else if (!take("null")) {
      found.value_ = number();
    }
    return found;
  }

  Json::Members object(int depth) {
    Json::Members members;
    space();
    if (take("}")) return members;
    do {
      space();
      std::string name = string();
      space();
      need(":");
      members.emplace_back(std::move(name), value(depth + 1));
      space();
    } while (take(","));
    need("}");
    return members;
  }

  std::vector<Json> array(int depth) {
    std::vector<Json> items;
    space();
    if (take("]")) return items;
    do {
      items.push_back(value(depth + 1));
      space();
    } while (take(","));
    need("]");
    return items;
  }

  double number() {
    const std::size_t begin = at_;
    while (std::string_view("+-.eE0123456789").find(peek()) != std::string_view::npos && peek() != '\0') ++at_;
    // Not std::from_chars: libc++ has it for floating numbers since version 20. Not strtod: it asks the locale.
    std::istringstream in{std::string(text_.substr(begin, at_ - begin))};
    in.imbue(std::locale::classic());
    double found = 0;
    if (begin == at_ || !(in >> found) || in.peek() != std::istringstream::traits_type::eof()) fail();
    return found;
  }

  std::uint32_t hex() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const std::size_t digit = std::string_view("0123456789abcdefABCDEF").find(peek());
      if (digit == std::string_view::npos || peek() == '\0') fail();
      code = code * 16 + static_cast<std::uint32_t>(digit < 16 ? digit : digit - 6);
      ++at_;
    }
    return code;
  }

  void escape(std::string& out) {
    const char kind = peek();
    ++at_;
    if (kind == 'u') {
      std::uint32_t code = hex();
      if (0xD800 <= code && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
        const std::size_t before = at_;
        at_ += 2;
        const std::uint32_t low = hex();
        if (0xDC00 <= low && low < 0xE000)
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        else
          at_ = before;
      }
      append_utf8(out, 0xD800 <= code && code < 0xE000 ? kReplacement : code);
      return;
    }
    const std::size_t place = std::string_view("\"\\/bfnrt").find(kind);
    if (place == std::string_view::npos) fail();
    out += "\"\\/\b\f\n\r\t"[place];
  }

  std::string string() {
    need("\"");
    std::string out;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) fail();
      if (take("\\"))
        escape(out);
      else
        out += text_[at_++];
    }
    need("\"");
    return out;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).whole(); }

void Json::read(const std::filesystem::path& file, const std::function<void(const Json&)>& use) {
  try {
    use(parse(read_file(file)));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model_damaged) throw;
    throw Error(error.kind(), file.string() + ": " + error.what());
  }
}

long long Json::integer() const {
  const double found = number();
  if (found != std::floor(found) || std::fabs(found) > 9007199254740992.0) refuse("a whole number");
  return static_cast<long long>(found);
}

const Json& Json::operator[](std::string_view name) const {
  for (const auto& [key, value] : members())
    if (key == name) return value;
  damaged("holds no \"" + std::string(name) + "\"");
}

void Json::refuse(const char* wanted) { damaged(std::string("something in it is not ") + wanted); }

}  // namespace cmkit
