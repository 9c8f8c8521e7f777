#pragma once

#include <filesystem>
#include <string>

#include "cmkit/error.hpp"

namespace cmkit {

/// The path of a UTF-8 string.
inline std::filesystem::path path_of(const std::string& utf8) { return std::filesystem::u8path(utf8); }

/// A whole file. Throws model_missing if it can't be read.
std::string read_file(const std::filesystem::path& file);

}  // namespace cmkit
