#pragma once

#include <filesystem>
#include <string>

namespace cmkit {

/// SHA-256 of a file, in 64 hexadecimal digits (FIPS 180-4). Throws model_missing if it can't be read.
std::string sha256_of(const std::filesystem::path& file);

}  // namespace cmkit
