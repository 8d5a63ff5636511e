import itertools

import pytest

from keras_kd.compression.stages.order import check_order
from keras_kd.compression.stages.stage import Stage


def _stage(kind):
    return type(kind, (Stage,), {})(1)


ORDER = ("Shrink", "LowRank", "Prune", "Cluster", "QuantizeAware")


def test_every_part_of_the_order_is_accepted_and_no_other():
    for count in range(1, 6):
        for kinds in itertools.permutations(ORDER, count):
            stages = [_stage(kind) for kind in kinds]
            ranks = [ORDER.index(kind) for kind in kinds]
            if ranks == sorted(ranks):
                check_order(stages)
                continue
            ordered = ", ".join(f"{kind}(...)" for kind in sorted(kinds, key=ORDER.index))
            with pytest.raises(ValueError, match="cannot follow") as error:
                check_order(stages)
            assert f"Write stages=[{ordered}]." in str(error.value)


def test_a_reason_is_given():
    with pytest.raises(ValueError, match="Prune cannot follow Cluster: it sets weights to zero"):
        check_order([_stage("Cluster"), _stage("Prune")])


def test_what_may_be_repeated():
    check_order([_stage("Prune"), _stage("Prune"), _stage("Shrink").__class__.__base__(1)])
    for kind in ("LowRank", "Cluster", "QuantizeAware"):
        with pytest.raises(ValueError, match=f"{kind} appears twice"):
            check_order([_stage(kind), _stage(kind)])


def test_a_stage_of_ones_own():
    check_order([_stage("Mine"), _stage("Prune"), _stage("Mine"), _stage("QuantizeAware")])
    with pytest.raises(ValueError, match=r"stages=\[Prune\(...\), Mine\(...\), QuantizeAware"):
        check_order([_stage("Prune"), _stage("QuantizeAware"), _stage("Mine")])
    derived = type("Derived", (type(_stage("Prune")),), {})(1)
    with pytest.raises(ValueError, match="Derived cannot follow Cluster"):
        check_order([_stage("Cluster"), derived])
