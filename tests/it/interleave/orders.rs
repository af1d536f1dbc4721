//! Every order of several programs' steps.

/// Calls `run` with each order in which programs of these many steps can take turns: a list of program numbers.
pub fn each_order(steps: &[usize], run: &mut dyn FnMut(&[usize])) {
    let mut left = steps.to_vec();
    go_on(&mut left, &mut Vec::new(), run);
}

fn go_on(left: &mut [usize], order: &mut Vec<usize>, run: &mut dyn FnMut(&[usize])) {
    if left.iter().all(|steps| *steps == 0) {
        return run(order);
    }
    for program in 0..left.len() {
        if left[program] > 0 {
            left[program] -= 1;
            order.push(program);
            go_on(left, order, run);
            order.pop();
            left[program] += 1;
        }
    }
}

#[test]
fn every_order_is_tried_once() {
    let mut seen = std::collections::BTreeSet::new();
    each_order(&[2, 1, 2], &mut |order| assert!(seen.insert(order.to_vec())));
    assert_eq!(seen.len(), 30);
}
