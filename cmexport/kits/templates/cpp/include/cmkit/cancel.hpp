#pragma once

#include <functional>
#include <list>
#include <mutex>

namespace cmkit {

/// Stops a drawing from another thread: give it to a drawing, then call request() from anywhere.
///
/// The drawing ends with `cancelled` when the node that is being computed is done. A request stays: take a new one for
/// the next drawing.
class Cancel {
 public:
  Cancel() = default;
  Cancel(const Cancel&) = delete;
  Cancel& operator=(const Cancel&) = delete;

  void request();
  bool requested() const;

  /// While it lives, `stop` is called once if there is a request, also if there was one before.
  class Watch {
   public:
    Watch(Cancel* cancel, std::function<void()> stop);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

   private:
    Cancel* cancel_;
    std::list<std::function<void()>>::iterator place_;
  };

 private:
  mutable std::mutex mutex_;
  bool requested_ = false;
  std::list<std::function<void()>> stops_;
};

}  // namespace cmkit
