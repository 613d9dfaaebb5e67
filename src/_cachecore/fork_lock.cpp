#include "fork_lock.hpp"

#include <algorithm>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace copick {
namespace {

struct Registry {
  std::mutex mutex;  // guards `locks`; held across fork() too
  std::vector<ForkLock*> locks;
};

Registry& registry() {
  static auto* one = new Registry;  // never destroyed: locks of static objects may outlive any order of destruction
  return *one;
}

#ifndef _WIN32
void before_fork() {
  registry().mutex.lock();
  for (ForkLock* lock : registry().locks) lock->lock();
}

void after_fork() {
  auto& locks = registry().locks;
  for (auto at = locks.rbegin(); at != locks.rend(); ++at) (*at)->unlock();
  registry().mutex.unlock();
}
#endif

}  // namespace

ForkLock::ForkLock() {
#ifndef _WIN32
  static const int once = pthread_atfork(before_fork, after_fork, after_fork);
  (void)once;
#endif
  const std::lock_guard guard(registry().mutex);
  registry().locks.push_back(this);
}

ForkLock::~ForkLock() {
  const std::lock_guard guard(registry().mutex);
  auto& locks = registry().locks;
  locks.erase(std::remove(locks.begin(), locks.end(), this), locks.end());
}

}  // namespace copick
