//! Fences: values that rise, waits that end.

use std::time::Duration;

use jalapeno::error::{Code, Error};
use jalapeno_tests::{SOON, Stopwatch, stage};

#[test]
fn a_fence_rises_and_never_falls_and_its_waiters_see_it() {
    let stage = stage();
    let session = stage.session();
    let fence = session.fence(5).unwrap();
    fence.wait(5, Some(Duration::ZERO)).unwrap();
    let late = fence.wait(6, Some(Duration::from_millis(5))).unwrap_err();
    assert!(matches!(late, Error::Late { .. }));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| fence.wait(6, Some(SOON)));
        fence.signal(9).unwrap();
        waiter.join().unwrap().unwrap();
    });
    fence.signal(3).unwrap();
    assert_eq!(fence.value().unwrap(), 9);
}

#[test]
fn ending_a_fence_ends_the_waits_of_every_thread_and_what_it_reached_stands() {
    let stage = stage();
    let session = stage.session();
    let fence = session.fence(1).unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (2..5)
            .map(|value| {
                let fence = &fence;
                scope.spawn(move || fence.wait(value, None))
            })
            .collect();
        // Let them fall asleep.
        std::thread::sleep(Duration::from_millis(20));
        let watch = Stopwatch::start();
        fence.end();
        fence.end();
        for waiter in waiters {
            let ended = waiter.join().unwrap().unwrap_err();
            assert_eq!(ended.code(), Code::Handle, "{ended}");
        }
        let ours = watch.ours();
        assert!(ours < Duration::from_secs(1), "{ours:?}");
    });
    fence.wait(1, None).unwrap();
    assert_eq!(fence.signal(9).unwrap_err().code(), Code::Handle);
    assert_eq!(fence.value().unwrap(), 1);
}
