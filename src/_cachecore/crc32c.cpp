#include "crc32c.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#define COPICK_CRC_X86 1
#include <nmmintrin.h>
#ifdef _MSC_VER
#include <intrin.h>
#define COPICK_TARGET
#else
#define COPICK_TARGET __attribute__((target("sse4.2")))
#endif
#elif defined(__aarch64__) && !defined(_MSC_VER)
#define COPICK_CRC_ARM 1
#include <arm_acle.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#ifdef __clang__
#define COPICK_TARGET __attribute__((target("crc")))
#else
#define COPICK_TARGET __attribute__((target("+crc")))
#endif
#endif

namespace copick {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78u;  // bit-reversed 0x1EDC6F41

using ByteTable = std::array<std::uint32_t, 256>;

constexpr std::array<ByteTable, 8> make_slices() {
  std::array<ByteTable, 8> slices{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) ? kPolynomial : 0u);
    slices[0][byte] = crc;
  }
  for (std::size_t slice = 1; slice < 8; ++slice)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t crc = slices[slice - 1][byte];
      slices[slice][byte] = (crc >> 8) ^ slices[0][crc & 0xFFu];
    }
  return slices;
}

constexpr std::array<ByteTable, 8> kSlices = make_slices();

std::uint64_t load64(const unsigned char* p) noexcept {
  std::uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

std::uint32_t update_portable(std::uint32_t crc, const unsigned char* p, std::size_t n) noexcept {
  for (; n >= 8; n -= 8, p += 8) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      const std::uint32_t mixed = p[i] ^ (i < 4 ? (crc >> (8 * i)) & 0xFFu : 0u);
      next ^= kSlices[7 - i][mixed];
    }
    crc = next;
  }
  for (; n; --n, ++p) crc = (crc >> 8) ^ kSlices[0][(crc ^ *p) & 0xFFu];
  return crc;
}

#if defined(COPICK_CRC_X86) || defined(COPICK_CRC_ARM)

// The CRC instruction has a latency of three cycles and a throughput of one: three independent streams keep it busy.
// Joining the streams needs the CRC "moved" over the bytes of the later ones, which is linear in the CRC's bits, so four
// 256-entry tables do it.
constexpr std::size_t kLong = 8192, kShort = 256;

class Mover {
 public:
  explicit Mover(std::size_t zeros) noexcept {
    std::array<std::uint32_t, 32> columns{};
    for (unsigned bit = 0; bit < 32; ++bit) {
      std::uint32_t crc = 1u << bit;
      for (std::size_t i = 0; i < zeros; ++i) crc = (crc >> 8) ^ kSlices[0][crc & 0xFFu];
      columns[bit] = crc;
    }
    for (unsigned part = 0; part < 4; ++part)
      for (unsigned byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = 0;
        for (unsigned bit = 0; bit < 8; ++bit)
          if (byte >> bit & 1u) crc ^= columns[8 * part + bit];
        table_[part][byte] = crc;
      }
  }
  std::uint32_t operator()(std::uint32_t crc) const noexcept {
    return table_[0][crc & 0xFFu] ^ table_[1][crc >> 8 & 0xFFu] ^ table_[2][crc >> 16 & 0xFFu] ^ table_[3][crc >> 24];
  }

 private:
  std::array<ByteTable, 4> table_{};
};

#ifdef COPICK_CRC_X86
COPICK_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) noexcept { return _mm_crc32_u64(crc, word); }
COPICK_TARGET inline std::uint64_t step_byte(std::uint64_t crc, unsigned char byte) noexcept {
  return _mm_crc32_u8(static_cast<std::uint32_t>(crc), byte);
}
bool has_hardware() noexcept {
#ifdef _MSC_VER
  int regs[4];
  __cpuid(regs, 1);
  return (regs[2] >> 20) & 1;
#else
  return __builtin_cpu_supports("sse4.2") != 0;
#endif
}
#else
COPICK_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) noexcept {
  return __crc32cd(static_cast<std::uint32_t>(crc), word);
}
COPICK_TARGET inline std::uint64_t step_byte(std::uint64_t crc, unsigned char byte) noexcept {
  return __crc32cb(static_cast<std::uint32_t>(crc), byte);
}
bool has_hardware() noexcept {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
  return true;  // every Apple processor of this architecture has it
#endif
}
#endif

template <std::size_t Stride>
COPICK_TARGET std::uint32_t three_streams(std::uint32_t crc, const unsigned char*& p, std::size_t& n,
                                          const Mover& mover) noexcept {
  while (n >= 3 * Stride) {
    std::uint64_t a = crc, b = 0, c = 0;
    for (const unsigned char* end = p + Stride; p < end; p += 8) {
      a = step(a, load64(p));
      b = step(b, load64(p + Stride));
      c = step(c, load64(p + 2 * Stride));
    }
    crc = mover(static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
    crc = mover(crc) ^ static_cast<std::uint32_t>(c);
    p += 2 * Stride;
    n -= 3 * Stride;
  }
  return crc;
}

COPICK_TARGET std::uint32_t update_hardware(std::uint32_t crc, const unsigned char* p, std::size_t n) noexcept {
  static const Mover over_long(kLong), over_short(kShort);
  crc = three_streams<kLong>(crc, p, n, over_long);
  crc = three_streams<kShort>(crc, p, n, over_short);
  std::uint64_t wide = crc;
  for (; n >= 8; n -= 8, p += 8) wide = step(wide, load64(p));
  for (; n; --n, ++p) wide = step_byte(wide, *p);
  return static_cast<std::uint32_t>(wide);
}

#endif

}  // namespace

std::uint32_t crc32c_portable(const void* data, std::size_t size) noexcept {
  return ~update_portable(~0u, static_cast<const unsigned char*>(data), size);
}

std::uint32_t crc32c(const void* data, std::size_t size) noexcept {
#if defined(COPICK_CRC_X86) || defined(COPICK_CRC_ARM)
  static const bool hardware = has_hardware();
  if (hardware) return ~update_hardware(~0u, static_cast<const unsigned char*>(data), size);
#endif
  return crc32c_portable(data, size);
}

}  // namespace copick
