"""Published benchmarks, run as they were published: the policy here, the simulator in an environment of its own."""
