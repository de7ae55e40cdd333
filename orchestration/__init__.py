"""Jobs on Ray, the command line and the HTTP API: the only package that knows Ray.

    console/     all printing
    reports/     one engine for charts, templates for pages, pictures
    runs/        leases of runs, signals, what is shown of a run
    cluster/     a Ray session, one pool of actors, resources, the head that may be lost
    generation/  a synthetic dataset made on the pool
    corpus/      text: files, documents, tokenizers, packing
    evaluation/  scores of models, programs in a sandbox
    training/    the trainer under Ray Train, rows through Ray Data
    live/        generation while training reads
    lattice/     training 3-D lattices
    pipeline/    generation, pre-pre-training and language in one job; the demo
    experiment/  arms that differ in one factor, analysed and reported
    tune/        a search for better parameters, promoted only on evidence
    serve/       the registry's API and pages
    commands/    arguments in, one call, printing out

A command calls ``jobs``, which joins Ray, acquires the lease of a run, and calls one room; the room reads and writes
the lake. A room imports only rooms above it in this list. Everything can be interrupted and run again.
"""
