//! Who may take how much, who waits for it, and who makes room.

use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::Mutex;

use super::{
    super::{
        Grant, Needs, Offered, Permit, Shelf,
        tests::{Slow, granted, pool_with_memory, waiting},
    },
    *,
};
use crate::guest::{InvokeError, hogs::FunctionKey};

/// The account of function `function`, whose instances begin with `start` bytes.
fn account(pool: &Arc<Pool>, function: FunctionKey, start: u64) -> Arc<Account> {
    let needs = Needs { places: 1, memory: start };
    pool.account(function, function, needs, Bound { value: 1_000, setting: "guest_instances" })
}

/// An instance that has begun and uses all that it began with. Its store ends before its place is given back.
fn instance(account: &Arc<Account>) -> Option<(Charge, Permit)> {
    let mut permit = account.try_permit()?;
    let mut charge = permit.charge(account);
    assert!(charge.grow(account.start));
    Some((charge, permit))
}

#[test]
fn a_function_may_hold_as_much_as_it_leaves_free() {
    let cases = [
        ("the first bytes", (100, 0, 0, 10), true),
        ("half of all", (100, 0, 0, 50), true),
        ("more than half", (100, 0, 0, 51), false),
        ("up to half", (100, 49, 49, 1), true),
        ("beyond half", (100, 50, 50, 1), false),
        ("a newcomer beside one that took all it could", (100, 50, 0, 25), true),
        ("and no more", (100, 50, 0, 26), false),
        ("two that hold a third each", (99, 65, 32, 1), true),
        ("neither gets more", (99, 66, 33, 1), false),
        ("nothing, of what is full", (100, 100, 100, 0), false),
        ("nothing, where one holds nothing", (100, 100, 0, 0), true),
        ("more than there is", (100, 90, 0, 20), false),
        ("more than can be counted", (100, 1, 1, u64::MAX), false),
        ("where more is held than the bound", (100, 120, 0, 1), false),
    ];
    for (name, (bound, used, held, more), expected) in cases {
        assert_eq!(is_fair(bound, used, held, more), expected, "{name}");
        let free = bound.saturating_sub(used);
        assert_eq!(wanted(held, more) <= free && used <= bound, expected, "{name}: what is wanted says the same");
    }
}

#[test]
fn of_those_who_take_all_they_can_at_once_each_holds_as_much_as_they_leave_free() {
    let (bound, step) = (1_000_000, 100);
    for greedy in 1..20 {
        let mut held = vec![0; greedy];
        let mut taken = true;
        while taken {
            taken = false;
            for index in 0..greedy {
                if is_fair(bound, held.iter().sum(), held[index], step) {
                    held[index] += step;
                    taken = true;
                }
            }
        }
        let free = bound - held.iter().sum::<u64>();
        assert!(held.iter().all(|held| held.abs_diff(free) <= 2 * step), "{greedy}: {held:?}, {free} free");
    }
}

#[test]
fn what_an_instance_holds_goes_back_when_it_ends_and_was_counted_once() {
    let pool = pool_with_memory(10, 100);
    let account = account(&pool, 1, 10);
    let (mut charge, permit) = instance(&account).unwrap();
    assert_eq!((pool.memory.used(), account.held(), charge.used()), (10, 10, 10), "taken with its place");
    assert!(charge.grow(40));
    assert!(!charge.grow(1), "half of all");
    assert_eq!((pool.memory.used(), charge.used()), (50, 50));
    drop(charge);
    drop(permit);
    assert_eq!((pool.memory.used(), account.held()), (0, 0));
    let unused = account.try_permit().unwrap();
    assert_eq!(pool.memory.used(), 10);
    drop(unused);
    assert_eq!((pool.memory.used(), pool.state.lock().free), (0, 10));
}

#[tokio::test]
async fn who_lacks_memory_waits_in_line_and_keeps_nobody_else() {
    let pool = pool_with_memory(10, 100);
    let (greedy, big, small) = (account(&pool, 1, 25), account(&pool, 2, 30), account(&pool, 3, 10));
    let held = (instance(&greedy).unwrap(), instance(&greedy).unwrap());
    assert!(greedy.try_permit().is_none(), "it holds half");
    let mut more = waiting(&greedy);
    let mut big_one = waiting(&big);
    let small_one = instance(&small).expect("enough is left for it");
    drop(small_one);
    assert!(granted(&mut big_one).is_none() && granted(&mut more).is_none());
    drop(held.0);
    assert!(granted(&mut more).is_some(), "it came first, and has room again");
    drop(held.1);
    assert!(granted(&mut big_one).is_some());
}

#[tokio::test]
async fn the_wait_ends_with_an_error_that_names_the_bound() {
    let pool = pool_with_memory(10, 100);
    let account = account(&pool, 1, 50);
    let _held = instance(&account).unwrap();
    let soon = Some(Instant::now() + Duration::from_millis(20));
    let Err(InvokeError::NoMemory { wait, full }) = account.acquire::<()>(soon).await else { panic!() };
    assert_eq!((wait.setting, full), ("Prefer: wait", Bound { value: 100, setting: "total_guest_memory" }));
}

/// Idle instances of a function that end when they are told to. The first is the longest idle.
struct Quick {
    function: FunctionKey,
    idle: Mutex<Vec<(Charge, Permit)>>,
}

impl Quick {
    fn register(pool: &Arc<Pool>, account: &Arc<Account>, count: usize) -> Arc<Self> {
        let idle = (0..count).map(|_| instance(account).unwrap()).collect();
        let shelf = Arc::new(Self { function: account.share.function, idle: Mutex::new(idle) });
        let known: Arc<dyn Shelf> = Arc::clone(&shelf) as _;
        pool.register(Arc::downgrade(&known));
        shelf
    }
}

impl Shelf for Quick {
    fn function(&self) -> FunctionKey {
        self.function
    }

    fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    fn idle_memory(&self) -> u64 {
        self.idle.lock().iter().map(|(charge, _)| charge.used()).sum()
    }

    fn instances(&self) -> usize {
        self.idle()
    }

    fn evict(&self) -> bool {
        let longest = {
            let mut idle = self.idle.lock();
            if idle.is_empty() { None } else { Some(idle.remove(0)) }
        };
        longest.is_some()
    }

    fn sweep(&self, _: Duration, _: Duration) {}
}

#[tokio::test]
async fn idle_instances_make_room_as_many_as_are_needed_and_none_that_would_not_help() {
    let pool = pool_with_memory(100, 100);
    let (idle, few, other) = (account(&pool, 1, 5), account(&pool, 2, 5), account(&pool, 3, 20));
    let (most, least) = (Quick::register(&pool, &idle, 10), Quick::register(&pool, &few, 2));
    // 40 are free: one of 20 may begin, the next wants 60 and gets them.
    let first = instance(&other).unwrap();
    let second = other.acquire::<()>(None).now_or_never().expect("at once");
    assert!(matches!(second, Ok(Grant::Permit(_))));
    assert_eq!((most.idle(), least.idle()), (2, 2), "those of who held most, and no more of them");
    drop(first);
    // Busy ones hold so much that all that is idle would not do.
    let busy = account(&pool, 4, 30);
    let _busy = instance(&busy).unwrap();
    let huge = account(&pool, 5, 50);
    let _waits = waiting(&huge);
    assert_eq!((most.idle(), least.idle()), (2, 2), "nothing goes in vain");
}

#[tokio::test]
async fn a_guest_that_grows_has_idle_instances_make_room() {
    let pool = pool_with_memory(100, 100);
    let (idle, grows) = (account(&pool, 1, 10), account(&pool, 2, 10));
    let shelf = Quick::register(&pool, &idle, 5);
    let (mut charge, _permit) = instance(&grows).unwrap();
    assert!(charge.grow(20), "30 is what it may hold once 60 are free for it");
    assert_eq!(shelf.idle(), 4);
    assert!(!charge.grow(21), "more than half of all, whoever goes");
    assert_eq!(shelf.idle(), 4);
    assert!(charge.grow(20));
    assert_eq!((shelf.idle(), pool.memory.used()), (0, 50));
}

#[tokio::test]
async fn instances_that_take_their_time_to_end_are_not_told_twice() {
    let pool = pool_with_memory(100, 100);
    let (idle, other) = (account(&pool, 1, 10), account(&pool, 2, 30));
    let permits = (0..5).map(|_| {
        let mut permit = idle.try_permit().unwrap();
        permit.charge.as_mut().unwrap().grow(10);
        permit
    });
    let permits = permits.collect();
    let shelf = Arc::new(Slow { account: idle, idle: Mutex::new(permits), ending: Mutex::default() });
    let known: Arc<dyn Shelf> = Arc::clone(&shelf) as _;
    pool.register(Arc::downgrade(&known));
    let mut one = waiting(&other);
    assert_eq!((shelf.idle(), shelf.ending.lock().len()), (4, 1), "50 are free, and 60 are wanted");
    let mut two = waiting(&other);
    assert_eq!((shelf.idle(), shelf.ending.lock().len()), (4, 1), "the first in line comes first");
    assert!(matches!(shelf.account.offer(()), Offered::Nobody(())));
    drop(std::mem::take(&mut *shelf.ending.lock()));
    let first = granted(&mut one).unwrap();
    assert!(granted(&mut two).is_none());
    assert_eq!(shelf.idle(), 4, "the second wants 90 free, and what is idle would not do");
    drop(first);
    drop(std::mem::take(&mut *shelf.ending.lock()));
    assert!(granted(&mut two).is_some());
    assert_eq!(pool.state.lock().coming_bytes, 0);
}
