#include "files.hpp"

#include <fstream>
#include <iterator>

namespace cmkit {

std::string read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(ErrorKind::model_missing, file.string() + ": is missing or can't be read");
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace cmkit
