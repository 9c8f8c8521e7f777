// fit IN WIDTH HEIGHT CHANNELS NEW_WIDTH NEW_HEIGHT OUT: raw bytes to the model's size; one channel as a mask, too.
#include <fstream>
#include <iterator>
#include <string>

#include "cmkit/photo.hpp"

namespace {

void write(const std::string& name, const cmkit::Picture& picture) {
  std::ofstream(name, std::ios::binary)
      .write(reinterpret_cast<const char*>(picture.bytes.data()), static_cast<std::streamsize>(picture.bytes.size()));
}

}  // namespace

int main(int, char** arguments) {
  const auto number = [&](int at) { return std::stoi(arguments[at]); };
  std::ifstream in(arguments[1], std::ios::binary);
  const cmkit::Picture photo{number(2), number(3), number(4), {std::istreambuf_iterator<char>(in), {}}};
  write(arguments[7], cmkit::fit(photo, number(5), number(6)));
  write(std::string(arguments[7]) + ".mask", cmkit::fit_mask(photo, number(5), number(6)));
}
