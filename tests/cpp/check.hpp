// What the tests of the native core share: a check that works in release builds, a scratch folder, a start gun for threads.
#pragma once
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (0)

class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "copick-test-XXXXXX").string();
    CHECK(::mkdtemp(name.data()));
    path = name;
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  std::string path;
};

// Runs work(0) ... work(n - 1) on n threads that start at the same moment.
inline void at_once(int n, const std::function<void(int)>& work) {
  std::mutex mutex;
  std::condition_variable gun;
  int ready = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i)
    threads.emplace_back([&, i] {
      {
        std::unique_lock lock(mutex);
        if (++ready == n) gun.notify_all();
        gun.wait(lock, [&] { return ready == n; });
      }
      work(i);
    });
  for (auto& thread : threads) thread.join();
}

inline std::vector<std::byte> random_bytes(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}
