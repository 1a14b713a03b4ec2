//! The allocator of all test crates: the system's allocator. It counts the allocations of each thread, and can fail
//! for one thread.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Allocations of this size and above fail.
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts an allocation; returns whether it may succeed.
fn may_allocate(size: usize) -> bool {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    size < LIMIT.get()
}

// SAFETY: every call is passed unchanged to the system's allocator, or returns null, as an allocator may.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !may_allocate(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller guarantees what the system's allocator requires.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !may_allocate(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !may_allocate(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// How many allocations this thread has made.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// As long as it lives, allocations of this size and above fail in this thread.
pub(crate) struct OutOfMemory(());

impl OutOfMemory {
    pub(crate) fn from(size: usize) -> OutOfMemory {
        LIMIT.set(size);
        OutOfMemory(())
    }
}

impl Drop for OutOfMemory {
    fn drop(&mut self) {
        LIMIT.set(usize::MAX);
    }
}
