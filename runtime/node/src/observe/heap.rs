//! What a test holds on the heap: bounds in bytes are held against the allocator's word, not against their own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that this thread took and did not give back.
pub(super) fn held() -> isize {
    HELD.get()
}

fn count(bytes: isize) {
    // Nobody counts while the thread ends.
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: likewise.
        unsafe { System.dealloc(at, layout) }
    }
}
