// What both file_posix.cpp and file_windows.cpp need: the shape of a chunk file, and the test points of its writing.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "crc32c.hpp"
#include "file.hpp"

namespace copick {

// Writes payload and checksum through `write_all(bytes, size)`, which returns errno. Returns errno.
template <class WriteAll>
int write_chunk(const void* payload, std::size_t size, WriteAll&& write_all) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(payload);
  const std::size_t half = size / 2;
  if (int e = injected(Step::created)) return e;
  if (int e = write_all(bytes, half)) return e;
  if (int e = injected(Step::half_written)) return e;
  if (int e = write_all(bytes + half, size - half)) return e;
  if (int e = injected(Step::payload_written)) return e;
  const std::uint32_t crc = crc32c(payload, size);
  const unsigned char end[Directory::trailer] = {static_cast<unsigned char>(crc), static_cast<unsigned char>(crc >> 8),
                                                 static_cast<unsigned char>(crc >> 16), static_cast<unsigned char>(crc >> 24)};
  if (int e = write_all(end, sizeof end)) return e;
  return injected(Step::checksum_written);
}

// Whether the four bytes behind `payload` bytes are their checksum.
inline bool checksum_matches(const unsigned char* data, std::size_t payload) noexcept {
  const unsigned char* end = data + payload;
  const std::uint32_t stored = static_cast<std::uint32_t>(end[0]) | static_cast<std::uint32_t>(end[1]) << 8 |
                               static_cast<std::uint32_t>(end[2]) << 16 | static_cast<std::uint32_t>(end[3]) << 24;
  return crc32c(data, payload) == stored;
}

[[noreturn]] void die() noexcept;  // as a killed process does: no handler, no flush

}  // namespace copick
