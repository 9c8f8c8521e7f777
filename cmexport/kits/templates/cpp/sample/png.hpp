#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cmkit/picture.hpp"

/// A PNG without compression, which any viewer opens; an app hands the bytes to its screen instead.
namespace png {

inline std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xFF);
  return bytes;
}

inline std::string chunk(const std::string& name_and_data) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char byte : name_and_data) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  return big_endian(static_cast<std::uint32_t>(name_and_data.size() - 4)) + name_and_data + big_endian(~crc);
}

/// zlib's format (RFC 1950) with stored blocks.
inline std::string stored(const std::string& data) {
  std::string out = "\x78\x01";
  std::uint32_t a = 1, b = 0;
  for (const char byte : data) {
    a = (a + static_cast<unsigned char>(byte)) % 65521;
    b = (b + a) % 65521;
  }
  for (std::size_t at = 0; at < data.size(); at += 0xFFFF) {
    const std::size_t count = std::min<std::size_t>(data.size() - at, 0xFFFF);
    const std::array<std::size_t, 5> head = {at + count == data.size() ? 1U : 0U, count & 0xFF, count >> 8,
                                             ~count & 0xFF, ~count >> 8 & 0xFF};
    for (const std::size_t byte : head) out += static_cast<char>(byte);
    out += data.substr(at, count);
  }
  return out + big_endian(b << 16 | a);
}

inline void write(const std::filesystem::path& file, const cmkit::Picture& picture) {
  std::string header = "IHDR" + big_endian(static_cast<std::uint32_t>(picture.width)) +
                       big_endian(static_cast<std::uint32_t>(picture.height));
  header += {8, static_cast<char>(picture.channels == 1 ? 0 : 2), 0, 0, 0};
  std::string rows;
  const auto row = static_cast<std::size_t>(picture.width) * static_cast<std::size_t>(picture.channels);
  for (std::size_t at = 0; at < picture.bytes.size(); at += row) {
    rows += '\0';
    rows.append(reinterpret_cast<const char*>(picture.bytes.data()) + at, row);
  }
  std::ofstream out(file, std::ios::binary);
  out << "\x89PNG\r\n\x1a\n" << chunk(header) << chunk("IDAT" + stored(rows)) << chunk("IEND");
  if (!out.flush()) throw std::runtime_error(file.string() + ": can't be written");
}

}  // namespace png
