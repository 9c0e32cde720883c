//! Turns, places and deadlines in a queue by virtual time.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Without a deadline.
fn file(session: u64) -> Claim {
    Claim { session: SessionId(session), deadline: None }
}

/// With a deadline that many seconds from a beginning that all share.
fn live(session: u64, deadline: u64) -> Claim {
    static BEGINNING: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let deadline = *BEGINNING.get_or_init(Instant::now) + Duration::from_secs(deadline);
    Claim { session: SessionId(session), deadline: Some(deadline) }
}

fn put<T>(queue: &Queue<T>, claim: Claim, item: T, millis: u64) -> Ticket {
    let ticket = queue.ticket(claim);
    let load = Load { cost: Duration::from_millis(millis), media: SECOND };
    assert!(queue.push(ticket, item, load).is_ok());
    ticket
}

fn pop<T>(queue: &Queue<T>) -> Option<T> {
    queue.pop().now_or_never().map(|(_, item)| item)
}

fn all<T>(queue: &Queue<T>) -> Vec<T> {
    std::iter::from_fn(|| pop(queue)).collect()
}

#[test]
fn of_one_session_the_first_to_come_is_the_first_served() {
    let queue = Queue::new(10);
    for item in 1..=3 {
        put(&queue, file(1), item, 500);
    }
    assert_eq!(queue.depth(), Depth { items: 3, media: 3 * SECOND });
    assert_eq!(all(&queue), [1, 2, 3]);
    assert_eq!(queue.depth(), Depth::default());
}

#[test]
fn of_one_session_the_earliest_deadline_is_the_first_served() {
    let queue = Queue::new(10);
    for (item, deadline) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        put(&queue, live(1, deadline), item, 500);
    }
    assert_eq!(all(&queue), [2, 4, 3, 1]);
}

#[test]
fn sessions_take_turns_by_cost() {
    let queue = Queue::new(20);
    for _ in 0..4 {
        put(&queue, file(1), "heavy", 800);
    }
    for _ in 0..8 {
        put(&queue, file(2), "light", 200);
    }
    let served = all(&queue);
    let lights = |before: usize| served[..before].iter().filter(|item| **item == "light").count();
    assert!(lights(6) >= 4, "as much time for one as for the other: {served:?}");
    assert_eq!(served.len(), 12);
}

#[test]
fn a_batch_of_files_costs_live_sessions_a_tenth() {
    let queue = Queue::new(1000);
    for n in 0..200 {
        put(&queue, file(n % 20), "file", 100);
        put(&queue, live(100, n), "live", 100);
    }
    let served = all(&queue);
    let files = served[..100].iter().filter(|item| **item == "file").count();
    assert!((5..=12).contains(&files), "{files}: neither starves");
}

#[test]
fn when_full_who_comes_waits_outside_and_a_place_goes_to_who_holds_fewest() {
    let queue = Queue::new(4);
    for _ in 0..10 {
        put(&queue, file(1), 1, 100);
    }
    assert_eq!(queue.depth().items, 2, "one session has no more than half");
    put(&queue, file(2), 2, 100);
    put(&queue, file(2), 2, 100);
    put(&queue, file(3), 3, 100);
    assert_eq!(queue.depth().items, 4);
    assert_eq!(pop(&queue), Some(1));
    assert_eq!(queue.depth().items, 4);
    assert!(all(&queue)[..4].contains(&3), "it had none: it was let in first");
}

#[test]
fn who_comes_back_is_the_next_and_needs_no_place() {
    let queue = Queue::new(1);
    let first = put(&queue, file(1), 1, 100);
    assert_eq!(pop(&queue), Some(1));
    put(&queue, file(2), 2, 100);
    assert_eq!(queue.push_back_in_turn(first, 1, Load::default()), Ok(()));
    assert_eq!(queue.remove_fresh(first), None, "it has been served");
    assert_eq!(all(&queue), [1, 2]);
}

#[test]
fn who_leaves_gives_its_place_back() {
    let queue = Queue::new(1);
    let gone = put(&queue, file(1), 1, 100);
    let outside = put(&queue, file(2), 2, 100);
    put(&queue, file(3), 3, 100);
    assert_eq!(queue.remove(outside), Some(2));
    assert_eq!(queue.remove(gone), Some(1));
    assert_eq!(queue.remove(gone), None);
    assert_eq!(all(&queue), [3]);
}

#[tokio::test]
async fn who_waits_for_an_item_gets_what_was_let_in_behind_another() {
    let queue = Queue::new(2);
    let (mut first, mut second) = (Box::pin(queue.pop()), Box::pin(queue.pop()));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    put(&queue, file(1), 1, 100);
    put(&queue, file(1), 2, 100);
    // Of the two that were woken, the second finds the other item still outside if it looks first.
    let (second, first) = tokio::join!(second, first);
    assert_eq!(second.1 + first.1, 3);
}

#[test]
fn closing_hands_out_what_waits_and_turns_away_who_comes() {
    let queue = Queue::new(1);
    put(&queue, file(1), 1, 100);
    put(&queue, live(2, 1), 2, 100);
    assert_eq!(queue.close(), [1, 2]);
    assert_eq!(queue.push(queue.ticket(file(1)), 3, Load::default()), Err(3));
    assert_eq!(queue.push_back_in_turn(queue.ticket(file(1)), 4, Load::default()), Err(4));
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    session: u64,
    millis: u64,
    deadline: Option<u64>,
    /// Items that are popped before it comes.
    pops: usize,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0..6_u64, 1..3000_u64, proptest::option::of(0..100_u64), 0..3_usize);
    let arrival = one.prop_map(|(session, millis, deadline, pops)| Arrival { session, millis, deadline, pops });
    proptest::collection::vec(arrival, 1..120)
}

proptest! {
    #[test]
    fn each_item_is_served_once_whatever_comes_and_goes(
        arrivals in arrivals(),
        places in 1..20_usize,
        leaves in proptest::collection::btree_set(0..120_usize, 0..20),
    ) {
        let queue = Queue::new(places);
        let mut served = Vec::new();
        let mut left = Vec::new();
        for (index, arrival) in arrivals.iter().enumerate() {
            for _ in 0..arrival.pops {
                served.extend(pop(&queue));
            }
            let claim = match arrival.deadline {
                Some(deadline) => live(arrival.session, deadline),
                None => file(arrival.session),
            };
            let ticket = put(&queue, claim, index, arrival.millis);
            prop_assert!(queue.depth().items <= places);
            if leaves.contains(&index) {
                left.extend(queue.remove(ticket));
            }
        }
        served.extend(all(&queue));
        served.extend(left);
        served.sort_unstable();
        prop_assert_eq!(served, (0..arrivals.len()).collect::<Vec<_>>());
        prop_assert_eq!(queue.depth(), Depth::default());
    }

    /// However much others have waiting and however heavy it is, a session waits for no more of each of them than it has
    /// itself, a turn and a job.
    #[test]
    fn a_heavy_session_costs_a_light_one_a_bounded_delay(
        heavies in proptest::collection::vec(proptest::collection::vec(1..4000_u64, 1..40), 1..8),
        cost in 1..2000_u64,
        pops in 0..20_usize,
    ) {
        let queue = Queue::new(10_000);
        for (session, jobs) in heavies.iter().enumerate() {
            for millis in jobs {
                put(&queue, live(session as u64, 1), *millis, *millis);
            }
        }
        for _ in 0..pops {
            pop(&queue);
        }
        put(&queue, live(99, 1), 0, cost);
        let waited: u64 = std::iter::from_fn(|| pop(&queue)).take_while(|item| *item != 0).sum();
        let quantum = QUANTUM.as_millis() as u64;
        let most = heavies.iter().map(|jobs| cost + 2 * quantum + jobs.iter().max().unwrap()).sum::<u64>();
        prop_assert!(waited <= most, "{} of {}", waited, most);
    }

    /// What is told to be ahead of an item is what is popped before it, but for a turn and a job of each session.
    #[test]
    fn what_is_ahead_is_what_is_served_before(
        others in proptest::collection::vec((0..5_u64, 1..2000_u64, any::<bool>()), 0..60),
        cost in 1..2000_u64,
    ) {
        let queue = Queue::new(10_000);
        for (session, millis, is_live) in &others {
            put(&queue, if *is_live { live(*session, 1) } else { file(*session) }, *millis, *millis);
        }
        let told = queue.ahead_of(live(2, 1), Duration::from_millis(cost)).as_millis() as u64;
        put(&queue, live(2, 1), 0, cost);
        let served: u64 = std::iter::from_fn(|| pop(&queue)).take_while(|item| *item != 0).sum();
        let slack = 6 * (2000 + 2 * QUANTUM.as_millis() as u64);
        prop_assert!(served.abs_diff(told) <= slack, "told {}, served {}", told, served);
    }
}
