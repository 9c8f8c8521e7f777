#pragma once

#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "cmkit/picture.hpp"

/// A photo as binary PPM, the simplest file there is; an app has its pictures decoded already.
namespace ppm {

inline cmkit::Picture read(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string kind;
  int levels = 0;
  cmkit::Picture photo;
  in >> kind >> photo.width >> photo.height >> levels;
  in.get();
  constexpr int most = 20000;
  if (!in || kind != "P6" || levels != 255 || photo.width < 1 || photo.height < 1 || photo.width > most ||
      photo.height > most)
    throw std::runtime_error(file.string() + ": is no binary PPM with 255 levels");
  photo.bytes.resize(static_cast<std::size_t>(photo.width) * static_cast<std::size_t>(photo.height) * 3);
  in.read(reinterpret_cast<char*>(photo.bytes.data()), static_cast<std::streamsize>(photo.bytes.size()));
  if (!in) throw std::runtime_error(file.string() + ": ends too early");
  return photo;
}

}  // namespace ppm
