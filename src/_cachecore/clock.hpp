// The time stamps of the native core.
#pragma once
#include <chrono>
#include <cstdint>

namespace copick {

inline std::uint64_t now_us() noexcept {  // microseconds since 1970, comparable between processes
  using namespace std::chrono;
  return static_cast<std::uint64_t>(duration_cast<microseconds>(system_clock::now().time_since_epoch()).count());
}

}  // namespace copick
