"""Model of the protocol by which many writers and prunes share a repository.

Programs are generators that yield one request to the object store at a time. A scheduler delivers
the requests in any order, late, twice or never, and stops and kills programs between them. The
checker proves after every change of the store that no restore point was lost. docs/decisions/0046
states the protocol; `rules` lists the rules that a run of the model can omit.
"""
