//! How long metaservers are without a leader when theirs dies, on virtual time and without any other
//! fault.

use std::rc::Rc;
use std::time::Duration;

use platform::sim::Simulation;

use simulator::cluster::{Cluster, Node};
use simulator::shape::{METAS, Shape};

/// Virtual time after which a run is given up.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

async fn wait_for_leader(cluster: &Cluster) -> Duration {
    let clock = cluster.simulation.platform().clock().clone();
    let began = clock.now();
    while cluster.leader().is_none() {
        clock.sleep(LOOK).await;
    }
    clock.now().saturating_since(began)
}

/// The time from a leader's death to the next leader.
fn gap(seed: u64) -> Duration {
    let shape = Shape::draw(seed, &[], None, 0);
    let simulation = Simulation::new(seed, shape.machine.clone());
    let cluster = Rc::new(Cluster::new(shape, simulation.clone()));
    let story = {
        let cluster = cluster.clone();
        async move {
            cluster.simulation.set_faults(false);
            for index in 0..METAS {
                cluster.boot(Node::Meta(index));
            }
            wait_for_leader(&cluster).await;
            cluster.simulation.platform().clock().sleep(Duration::from_secs(3)).await;
            let leads =
                |index: &usize| cluster.metas()[*index].as_ref().is_some_and(|server| server.replica().is_leader());
            let leader = (0..METAS).find(leads).expect("somebody leads");
            cluster.crash(Node::Meta(leader));
            wait_for_leader(&cluster).await
        }
    };
    let gap = simulation.run(story, LIMIT).expect("a leader in time");
    cluster.close();
    gap
}

#[test]
fn a_new_leader_is_there_within_a_second() {
    let mut gaps: Vec<Duration> = (1..=60).map(gap).collect();
    gaps.sort();
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() * 9 / 10]);
    let longest = gaps[gaps.len() - 1];
    assert!(most < Duration::from_secs(1), "median {median:?}, nine of ten within {most:?}");
    // Two that stand at once may split the votes, and it takes another round.
    assert!(longest < Duration::from_millis(2500), "{longest:?}");
}
