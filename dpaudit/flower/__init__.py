"""Federated training over Flower: our server and our clients, Flower's transport.

What privacy rests on (cohorts, clip, sum, noise, ledger) stays in `dpaudit.federated.server`. Here is how a round's
work reaches the nodes and comes back: `messages` (what is said), `exchange` (Flower's Grid, with a time-out), `fleet`
(which node speaks for which client), `engine` (the `Engine` of a run), `node` and `client_app` (the other side),
`shards` (what a node holds), `simulation`, `loopback` and `deployment` (where the nodes are).

Flower's strategies, its differential privacy and its sampling are not used.
"""
