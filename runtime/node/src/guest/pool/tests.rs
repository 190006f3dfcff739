//! The line, the shares, the weights.

use std::future::Future;

use futures::FutureExt;

use super::*;

fn pool(places: u32) -> Arc<Pool> {
    pool_with_memory(places, 1 << 40)
}

pub(super) fn pool_with_memory(places: u32, memory: u64) -> Arc<Pool> {
    let wait = Bound { value: Duration::from_secs(60), setting: "instance_wait" };
    let memory = Memory::new(Bound { value: memory, setting: "total_guest_memory" }, Default::default());
    Pool::new(places, memory, wait, Bound { value: 100, setting: "instance_queue" })
}

/// The account of function `function`, whose instances take `places` and which may hold `share`.
fn account(pool: &Arc<Pool>, function: FunctionKey, places: u32, share: u32) -> Arc<Account> {
    let needs = Needs { places, memory: 0 };
    pool.account(function, function, needs, Bound { value: share, setting: "guest_instances" })
}

pub(super) fn waiting(
    account: &Arc<Account>,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Grant<()>, InvokeError>> + Send>> {
    let account = Arc::clone(account);
    let mut waiting = async move { account.acquire::<()>(None).await }.boxed();
    assert!((&mut waiting).now_or_never().is_none(), "it has to wait");
    waiting
}

pub(super) fn granted(waiting: &mut (impl Future<Output = Result<Grant<()>, InvokeError>> + Unpin)) -> Option<Permit> {
    match waiting.now_or_never()? {
        Ok(Grant::Permit(permit)) => Some(permit),
        _ => panic!("no permit"),
    }
}

#[test]
fn an_instance_takes_as_many_places_as_its_memories_and_tables_fill() {
    for (memories, tables, places) in [(0, 0, 1), (1, 1, 1), (2, 4, 1), (3, 4, 2), (2, 5, 2), (32, 1, 16), (1, 128, 32)]
    {
        assert_eq!(places_for(memories, tables), places, "{memories} memories, {tables} tables");
    }
}

#[tokio::test]
async fn a_heavy_instance_waits_until_all_its_places_are_free_and_nobody_overtakes_it() {
    let pool = pool(4);
    let (light, heavy, late) = (account(&pool, 1, 1, 4), account(&pool, 2, 3, 4), account(&pool, 3, 1, 4));
    let mut held: Vec<_> = (0..3).map(|_| light.try_permit().unwrap()).collect();
    let mut heavy_one = waiting(&heavy);
    assert!(late.try_permit().is_none(), "a place is free, and it is not for newcomers");
    held.pop();
    assert!(granted(&mut heavy_one).is_none());
    held.pop();
    let permit = granted(&mut heavy_one).unwrap();
    assert!(late.try_permit().is_none(), "all are taken");
    drop(permit);
    assert!(late.try_permit().is_some());
}

#[tokio::test]
async fn whoever_leaves_the_line_lets_those_behind_go_on() {
    let pool = pool(4);
    let (light, heavy) = (account(&pool, 1, 1, 4), account(&pool, 2, 4, 4));
    let _held = light.try_permit().unwrap();
    let heavy_one = waiting(&heavy);
    let mut behind = waiting(&light);
    drop(heavy_one);
    assert!(granted(&mut behind).is_some());
}

#[tokio::test]
async fn a_function_at_its_share_waits_for_its_own_and_keeps_no_neighbour() {
    let pool = pool(4);
    let (greedy, neighbour) = (account(&pool, 1, 1, 3), account(&pool, 2, 1, 3));
    let mut held: Vec<_> = std::iter::from_fn(|| greedy.try_permit()).collect();
    assert_eq!(held.len(), 3, "its share");
    let mut more: Vec<_> = (0..5).map(|_| waiting(&greedy)).collect();
    let theirs = neighbour.try_permit().expect("a neighbour finds a place");
    let mut next = waiting(&neighbour);
    held.pop();
    let own = granted(&mut more[0]).expect("its own place comes back to it: it waited longest");
    assert!(granted(&mut next).is_none());
    drop(theirs);
    assert!(granted(&mut next).is_some(), "and the neighbour's to the neighbour: the other may hold no more");
    assert!(more[1..].iter_mut().all(|waiting| granted(waiting).is_none()));
    drop((held, own));
    let served: Vec<_> = more[1..].iter_mut().filter_map(granted).collect();
    assert_eq!(served.len(), 3);
}

#[tokio::test]
async fn the_bound_that_was_full_and_the_wait_are_named_and_a_client_s_deadline_ends_the_wait() {
    let pool = pool(2);
    let (greedy, neighbour) = (account(&pool, 1, 1, 1), account(&pool, 2, 1, 2));
    let _held = greedy.try_permit().unwrap();
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    let Err(InvokeError::NoInstance { wait, full }) = greedy.acquire::<()>(soon()).await else { panic!() };
    assert_eq!((wait.setting, full), ("Prefer: wait", Bound { value: 1, setting: "guest_instances" }));
    let _theirs = neighbour.try_permit().unwrap();
    let Err(InvokeError::NoInstance { full, .. }) = neighbour.acquire::<()>(soon()).await else { panic!() };
    assert_eq!(full, Bound { value: 2, setting: "max_instances" });
}

/// Instances that end some time after they were evicted, as those of 0.3 do.
pub(super) struct Slow {
    pub(super) account: Arc<Account>,
    pub(super) idle: Mutex<Vec<Permit>>,
    pub(super) ending: Mutex<Vec<Permit>>,
}

impl Shelf for Slow {
    fn function(&self) -> FunctionKey {
        self.account.share.function
    }

    fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    fn idle_memory(&self) -> u64 {
        self.idle.lock().iter().filter_map(|permit| Some(permit.charge.as_ref()?.used())).sum()
    }

    fn instances(&self) -> usize {
        self.idle()
    }

    fn evict(&self) -> bool {
        let Some(mut permit) = self.idle.lock().pop() else { return false };
        let bytes = permit.charge.as_ref().map_or(0, Charge::used);
        self.account.expect(bytes);
        permit.was_expected(bytes);
        self.ending.lock().push(permit);
        true
    }

    fn sweep(&self, _: Duration, _: Duration) {}
}

#[tokio::test]
async fn as_many_idle_instances_go_as_there_are_places_missing_however_long_they_take_to_end() {
    let pool = pool(6);
    let (idle, other) = (account(&pool, 1, 1, 6), account(&pool, 2, 1, 4));
    let permits = std::iter::from_fn(|| idle.try_permit()).collect();
    let shelf = Arc::new(Slow { account: idle, idle: Mutex::new(permits), ending: Mutex::default() });
    let known: Arc<dyn Shelf> = Arc::clone(&shelf) as _;
    pool.register(Arc::downgrade(&known));
    let mut one = waiting(&other);
    assert_eq!((shelf.idle(), shelf.ending.lock().len()), (5, 1));
    let mut two = waiting(&other);
    assert_eq!((shelf.idle(), shelf.ending.lock().len()), (4, 2));
    // One that becomes free meanwhile is not wanted: enough are on their way.
    assert!(matches!(shelf.account.offer(()), Offered::Nobody(())));
    let ending = std::mem::take(&mut *shelf.ending.lock());
    drop(ending);
    let held = (granted(&mut one).unwrap(), granted(&mut two).unwrap());
    assert_eq!(shelf.idle(), 4);
    let mut more: Vec<_> = (0..4).map(|_| waiting(&other)).collect();
    assert_eq!(shelf.idle(), 2, "of four, two are beyond the function's share");
    drop(std::mem::take(&mut *shelf.ending.lock()));
    let served: Vec<_> = more.iter_mut().filter_map(granted).collect();
    assert_eq!((served.len(), held.0.account.is_some()), (2, true));
}

#[tokio::test]
async fn an_instance_that_becomes_free_goes_to_who_came_first_or_makes_room_for_them() {
    let pool = pool(2);
    let (one, other) = (account(&pool, 1, 1, 2), account(&pool, 2, 1, 2));
    let (busy, _busy) = (one.try_permit().unwrap(), one.try_permit().unwrap());
    let mut first = waiting(&one);
    let mut second = waiting(&other);
    let mut third = waiting(&one);
    assert!(matches!(one.offer(()), Offered::Taken));
    assert!(matches!((&mut first).now_or_never(), Some(Ok(Grant::Instance(())))));
    assert!(matches!(one.offer(()), Offered::Other(())), "the other's turn is next");
    drop(busy);
    let theirs = granted(&mut second).unwrap();
    assert!(matches!(one.offer(()), Offered::Taken));
    assert!(matches!((&mut third).now_or_never(), Some(Ok(Grant::Instance(())))));
    assert!(matches!(one.offer(()), Offered::Nobody(())));
    drop(theirs);
}

#[tokio::test]
async fn a_free_instance_is_wanted_by_its_own_line_and_by_whoever_lacks_a_place() {
    let pool = pool(2);
    let (one, other) = (account(&pool, 1, 1, 2), account(&pool, 2, 1, 2));
    let (busy, _busy) = (one.try_permit().unwrap(), one.try_permit().unwrap());
    assert!(!one.is_wanted());
    let own = waiting(&one);
    assert!(one.is_wanted());
    drop(own);
    assert!(!one.is_wanted(), "it left");
    let mut theirs = waiting(&other);
    assert!(one.is_wanted());
    one.expect(0);
    assert!(!one.is_wanted(), "a place is on its way");
    one.expect_no_more(0);
    drop(busy);
    let _held = granted(&mut theirs).unwrap();
    assert!(!one.is_wanted());
}
