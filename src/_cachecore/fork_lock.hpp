// A mutex that a child process can use after fork(), even if another thread of the parent held it at that moment.
//
// All ForkLocks of the process are taken, oldest first, before fork() and released after it on both sides, so the child always
// gets them free and what they guard consistent. Lock order: a thread holds at most one ForkLock at a time.
#pragma once
#include <mutex>

namespace copick {

class ForkLock {
 public:
  ForkLock();
  ~ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace copick
