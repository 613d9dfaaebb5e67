#include <cstring>

#include "check.hpp"
#include "crc32c.hpp"

int main() {
  // The check value of the CRC catalogue, and the vectors of RFC 3720, B.4.
  CHECK(copick::crc32c("123456789", 9) == 0xE3069283u);
  unsigned char bytes[32] = {};
  CHECK(copick::crc32c(bytes, 32) == 0x8A9136AAu);
  std::memset(bytes, 0xFF, 32);
  CHECK(copick::crc32c(bytes, 32) == 0x62A8AB43u);
  for (unsigned i = 0; i < 32; ++i) bytes[i] = static_cast<unsigned char>(i);
  CHECK(copick::crc32c(bytes, 32) == 0x46DD794Eu);
  CHECK(copick::crc32c(nullptr, 0) == 0);

  const auto data = random_bytes(200'000, 1);
  std::mt19937 random(2);
  for (std::size_t size = 0; size < 2000; ++size)
    CHECK(copick::crc32c(data.data(), size) == copick::crc32c_portable(data.data(), size));
  for (int i = 0; i < 200; ++i) {  // lengths around the three-stream blocks, any alignment
    const std::size_t at = random() % 100, size = random() % (data.size() - at);
    CHECK(copick::crc32c(data.data() + at, size) == copick::crc32c_portable(data.data() + at, size));
  }
}
