"""One loop for every stage: what trains is a rule table, what it learns from is a data source, and the rest is the same.

`config` says what a stage is given, `stages` turns its name into rules over paths, `optimizer`, `state` and `step` are
the pure functions of one update, `takeover` decides what a stage starts from, `checkpoint` and `guard` keep it safe, `feed` and
`log` bring batches in and figures out, `watch`, `trackers` and `profile` show them elsewhere, and `loop.run` is the
page that reads them in order.
"""
