// The JSON reader: what the kit's files hold, and what a damaged one may.
#include "json.hpp"

#include <string>

#include "check.hpp"
#include "cmkit/error.hpp"

namespace {

void reads() {
  const cmkit::Json found = cmkit::Json::parse(
      " {\"a\": [1, -2.5e1, true, false, null], \"b\\u00e9\\ud83d\\ude3f\": \"\\n\\\"\\ud83d!\", \"\": {}} ");
  CHECK(found["a"].array().at(0).integer() == 1);
  CHECK(found["a"].array().at(1).number() == -25);
  CHECK(found["a"].array().at(2).boolean() && !found["a"].array().at(3).boolean());
  CHECK(found["a"].array().at(4).is_null());
  CHECK(found["b\xC3\xA9\xF0\x9F\x98\xBF"].string() == "\n\"\xEF\xBF\xBD!");
  CHECK(found[""].members().empty());
}

void refuses() {
  for (const char* text : {"", "{", "[1,", "[1 2]", "\"a", "{\"a\" 1}", "nul", "1x", "--1", "[1]]", "\"\\x\"",
                           "\"\\u12\"", "{1: 2}", "\"\n\"", "+", ".", "[,]", "{\"a\":1,}"})
    CHECK_ERROR(model_damaged, cmkit::Json::parse(text));
  CHECK_ERROR(model_damaged, cmkit::Json::parse(std::string(100000, '[')));
  CHECK_ERROR(model_damaged, cmkit::Json::parse("[]")["a"]);
  CHECK_ERROR(model_damaged, cmkit::Json::parse("{}")["a"]);
  CHECK_ERROR(model_damaged, cmkit::Json::parse("1.5").integer());
  CHECK_ERROR(model_damaged, cmkit::Json::parse("1e300").integer());
  CHECK_ERROR(model_damaged, cmkit::Json::parse("\"1\"").number());
  CHECK_ERROR(model_missing, cmkit::Json::read(check::kit() / "no such file"));
}

}  // namespace

int main() {
  return check::run([] {
    reads();
    refuses();
  });
}
