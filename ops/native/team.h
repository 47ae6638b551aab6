// Threads of one call, and the points at which they wait for each other.
#pragma once

#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

class Meeting {
  public:
    explicit Meeting(int members) : members(members) {}

    // Waits until the number of members is known, and returns it.
    int begin() {
        std::unique_lock<std::mutex> lock(mutex);
        everyone.wait(lock, [&] { return begun; });
        return members;
    }

    // Tells all members that they are `count`.
    void open(int count) {
        std::lock_guard<std::mutex> lock(mutex);
        members = count, begun = true;
        everyone.notify_all();
    }

    // Returns when all members have called it.
    void wait() {
        if (members == 1) return;
        std::unique_lock<std::mutex> lock(mutex);
        const int own = round;
        if (++arrived == members) {
            arrived = 0, round++;
            everyone.notify_all();
        } else {
            everyone.wait(lock, [&] { return round != own; });
        }
    }

  private:
    int members;
    bool begun = false;
    int arrived = 0, round = 0;
    std::mutex mutex;
    std::condition_variable everyone;
};

// Runs work(number, members, meeting) in up to `most` threads, of which the caller's is one; there are fewer where the
// system gives no more. Threads live for one call, so that a process may fork between calls.
template <class Work>
void in_team(int most, Work work) {
    Meeting meeting(most);
    std::vector<std::thread> others;
    try {
        for (int number = 1; number < most; number++)
            others.emplace_back([&, number] { work(number, meeting.begin(), meeting); });
    } catch (const std::system_error&) {
    }
    const int members = static_cast<int>(others.size()) + 1;
    meeting.open(members);
    work(0, members, meeting);
    for (std::thread& other : others) other.join();
}

// The first of `count` things that are member `number`'s, in shares of one size; its last one ends at number + 1.
inline int share(int count, int members, int number) { return static_cast<int>(static_cast<long>(count) * number / members); }
