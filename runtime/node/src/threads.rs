//! Threads by number, for what each of them should write by itself: memory that two write goes back and forth between
//! their processors, which costs more than the writing.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The number of this thread, from 0 in the order in which they asked first.
pub(crate) fn number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Relaxed);
    }
    // A thread that ends has none any more.
    NUMBER.try_with(|number| *number).unwrap_or_default()
}

/// This thread's of the places, which threads share where there are more of them.
pub(crate) fn own<T>(places: &[T]) -> Option<&T> {
    places.get(number() % places.len().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_place_and_others_have_others() {
        let places: Vec<usize> = (0..1_000).collect();
        let mine = *own(&places).unwrap();
        assert_eq!(own(&places), Some(&mine));
        let other = std::thread::spawn(move || *own(&places).unwrap()).join().unwrap();
        assert_ne!(mine, other);
        assert_eq!(own::<u8>(&[]), None);
    }
}
