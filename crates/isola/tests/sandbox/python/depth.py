# Kinds of deep data and deep recursion in C code.
import sys
KINDS = {}
def kind(f): KINDS[f.__name__] = f; return f
N = 100000
def nest(n, make, x=None):
    for _ in range(n): x = make(x)
    return x
class Node:
    __slots__ = ("next", "__weakref__")
    def __init__(s, n): s.next = n
class DNode:
    def __init__(s, n): s.next = n
@kind
def free_slots(): nest(N, Node)
@kind
def free_dictobj(): nest(N, DNode)
@kind
def free_closures(): nest(N, lambda x: (lambda: x))
@kind
def free_generators():
    def g(x):
        yield x
    def mk(x):
        y = g(x); next(y); return y
    nest(N, mk)
@kind
def free_dict(): nest(N, lambda x: {"a": x})
@kind
def free_list(): nest(N, lambda x: [x])
@kind
def free_tuple(): nest(N, lambda x: (x,))
@kind
def free_set(): nest(N, lambda x: frozenset([x]))
@kind
def free_partial():
    from functools import partial
    nest(N, lambda x: partial(print, x))
@kind
def free_method():
    class A:
        def m(self): pass
    def mk(x):
        a = A(); a.x = x; return a.m
    nest(N, mk)
@kind
def free_iter(): nest(N, lambda x: iter([x]))
@kind
def free_map():
    nest(N, lambda x: map(print, x if x is not None else []))
@kind
def free_chain():
    import itertools
    nest(N, lambda x: itertools.chain([], x or []))
@kind
def free_deque():
    from collections import deque
    nest(N, lambda x: deque([x]))
@kind
def free_od():
    from collections import OrderedDict
    nest(N, lambda x: OrderedDict(a=x))
@kind
def free_exc():
    def mk(x):
        e = ValueError(); e.__context__ = x; return e
    nest(N, mk)
@kind
def free_cell():
    import types
    nest(N, types.CellType)
@kind
def free_slice(): nest(N, lambda x: slice(x))
@kind
def free_del():
    class A:
        def __init__(s,n): s.n=n
        def __del__(s): pass
    nest(N, A)
@kind
def free_listsub():
    class L(list): pass
    nest(N, lambda x: L([x]))
@kind
def free_etree():
    import xml.etree.ElementTree as ET
    def mk(x):
        e = ET.Element("a")
        if x is not None: e.append(x)
        return e
    nest(N, mk)
@kind
def free_property(): nest(N, lambda x: property(x))
@kind
def free_gcyc():
    import gc
    a = nest(N, lambda x: [x]); b=[a]; a.append(b)
    del a, b; gc.collect()
lst = lambda n=N: nest(n, lambda x: [x], 1)
dct = lambda n=N: nest(n, lambda x: {"a": x}, 1)
tup = lambda n=N: nest(n, lambda x: (x,), 1)
import json
@kind
def json_loads(): json.loads("["*N + "]"*N)
@kind
def json_loads_d(): json.loads('{"a":'*N + "1" + "}"*N)
@kind
def json_dumps(): json.dumps(lst())
@kind
def json_dumps_d(): json.dumps(dct())
@kind
def json_dumps_indent(): json.dumps(lst(), indent=1)
@kind
def pickle_dumps():
    import pickle; pickle.dumps(lst())
@kind
def pickle_obj():
    import pickle; pickle.dumps(nest(N, DNode))
@kind
def repr_l(): repr(lst())
@kind
def repr_d(): repr(dct())
@kind
def repr_t(): repr(tup())
@kind
def str_l(): str(lst())
@kind
def repr_partial():
    from functools import partial
    repr(nest(N, lambda x: partial(print, x)))
@kind
def repr_deque():
    from collections import deque
    repr(nest(N, lambda x: deque([x])))
@kind
def eq_l(): lst() == lst()
@kind
def eq_d(): dct() == dct()
@kind
def eq_t(): tup() == tup()
@kind
def lt_l(): lst() < lst()
@kind
def hash_t(): hash(tup())
@kind
def hash_fs(): hash(nest(N, lambda x: frozenset([x]), 1))
@kind
def hash_partial():
    hash(nest(N, lambda x: slice(x, 1), 1))
@kind
def deepcopy_l():
    import copy; copy.deepcopy(lst())
@kind
def ast_parse():
    import ast; ast.parse("-"*N + "1")
@kind
def ast_parse2():
    import ast; ast.parse("+".join(["1"]*N))
@kind
def ast_attr():
    import ast; ast.parse("a" + ".b"*N)
@kind
def eval_par(): eval("("*190 + "1" + ")"*190)
@kind
def eval_br(): eval("["*190 + "]"*190)
@kind
def comp_not(): compile("not "*N + "1", "x", "eval")
@kind
def comp_lambda(): compile("lambda:"*5000 + "1", "x", "eval")
@kind
def comp_comp():
    s = "0"
    for i in range(24): s = f"[{s} for x{i} in y]"
    compile(s, "x", "eval")
@kind
def comp_comp80():
    s = "0"
    for i in range(80): s = f"[{s} for x{i} in y]"
    compile(s, "x", "eval")
@kind
def comp_iter():
    s = "y"
    for i in range(90): s = f"[0 for x{i} in {s}]"
    compile(s, "x", "eval")
@kind
def comp_gen():
    s = "0"
    for i in range(60): s = f"({s} for x{i} in y)"
    compile(s, "x", "eval")
@kind
def comp_dict():
    s = "0"
    for i in range(60): s = "{1: %s for x%d in y}" % (s, i)
    compile(s, "x", "eval")
@kind
def comp_def():
    s = "".join(" "*i + f"def f{i}():\n" for i in range(95)) + " "*95 + "pass\n"
    compile(s, "x", "exec")
@kind
def comp_class():
    s = "".join(" "*i + f"class f{i}:\n" for i in range(95)) + " "*95 + "pass\n"
    compile(s, "x", "exec")
@kind
def comp_if():
    s = "".join(" "*i + "if 1:\n" for i in range(95)) + " "*95 + "pass\n"
    compile(s, "x", "exec")
@kind
def comp_for():
    s = "".join(" "*i + "for x in y:\n" for i in range(20)) + " "*20 + "pass\n"
    compile(s, "x", "exec")
@kind
def comp_elif():
    s = "if 0: pass\n" + "elif 1: pass\n"*20000
    compile(s, "x", "exec")
@kind
def comp_fstr():
    s = "1"
    for i in range(30): s = 'f"{' + s + '}"'
    compile(s, "x", "eval")
@kind
def comp_ternary(): compile("1 if x else "*5000 + "1", "x", "eval")
@kind
def isinst():
    t = tup(); isinstance(1, t) 
@kind
def isinst2():
    isinstance(1, nest(N, lambda x: (x,), str))
@kind
def issub(): issubclass(int, nest(N, lambda x: (x,), str))
@kind
def py_rec():
    def f(n): return f(n+1)
    f(0)
@kind
def py_rec_big():
    sys.setrecursionlimit(10**6)
    def f(n): return 0 if n==200000 else f(n+1)
    try: f(0)
    finally: sys.setrecursionlimit(1000)
@kind
def c_rec_sorted():
    sys.setrecursionlimit(10**6)
    def f(n): return sorted([1,2], key=lambda _: f(n+1))
    try: f(0)
    finally: sys.setrecursionlimit(1000)
@kind
def c_rec_map():
    sys.setrecursionlimit(10**6)
    def f(n): return list(map(f, [n]))
    try: f(0)
    finally: sys.setrecursionlimit(1000)
@kind
def c_rec_getattr():
    sys.setrecursionlimit(10**6)
    class A:
        def __getattr__(s, n): return getattr(s, n+"x")
    try: A().a
    finally: sys.setrecursionlimit(1000)
@kind
def c_rec_add():
    sys.setrecursionlimit(10**6)
    class A:
        def __add__(s, o): return s + o
        def __repr__(s): return repr(s)
        def __eq__(s, o): return s == o
        def __hash__(s): return hash(s)
        def __len__(s): return len(s)
        def __bool__(s): return bool(s)
        def __iter__(s): return iter(s)
        def __call__(s): return s()
        def __getitem__(s, i): return s[i]
        def __contains__(s, i): return i in s
        def __format__(s, x): return format(s, x)
        def __index__(s): return range(s)
        def __str__(s): return str(s)
        def __setattr__(s, a, b): setattr(s, a, b)
    a = A()
    import operator as op
    for f in {
        "add": lambda: a+1,
        "repr": lambda: repr(a),
        "eq": lambda: a==1,
        "hash": lambda: hash(a),
        "len": lambda: len(a),
        "bool": lambda: bool(a),
        "iter": lambda: iter(a),
        "call": lambda: a(),
        "item": lambda: a[0],
        "cont": lambda: 1 in a,
        "fmt": lambda: format(a, "x"),
        "idx": lambda: op.index(a),
        "st": lambda: str(a),
        "sa": lambda: setattr(a,"x",1),
    }.values():
        try: f()
        except RecursionError: pass
    sys.setrecursionlimit(1000)
    raise RecursionError("all")
@kind
def c_rec_new():
    sys.setrecursionlimit(10**6)
    class A:
        def __init__(s): A()
    try: A()
    finally: sys.setrecursionlimit(1000)
@kind
def re_nested():
    import re; re.compile("("*3000 + ")"*3000)
@kind
def chain_next():
    import itertools
    it = iter([1])
    for _ in range(N): it = itertools.chain(it, [])
    list(it)
@kind
def map_next():
    it = iter([1])
    for _ in range(N): it = map(int, it)
    list(it)
@kind
def yield_from():
    def g(n):
        if n: yield from g(n-1)
        yield n
    sys.setrecursionlimit(10**6)
    try: list(g(20000))
    finally: sys.setrecursionlimit(1000)
@kind
def gen_nest():
    def g(x):
        for i in x: yield i
    it = iter([1])
    for _ in range(20000): it = g(it)
    sys.setrecursionlimit(10**6)
    try: list(it)
    finally: sys.setrecursionlimit(1000)
@kind
def partial_call():
    from functools import partial
    class P(partial): pass
    f = lambda: 1
    for _ in range(N): f = P(P(f).__call__)
    f()
@kind
def et_parse():
    import xml.etree.ElementTree as ET
    ET.fromstring("<a>"*N + "</a>"*N)
@kind
def et_tostring():
    import xml.etree.ElementTree as ET
    ET.tostring(ET.fromstring("<a>"*N + "</a>"*N))
@kind
def typing_u():
    import types
    x = int
    for _ in range(N): x = list[x]
    repr(x)
@kind
def typing_h():
    x = int
    for _ in range(N): x = list[x]
    hash(x)
@kind
def exc_group():
    e = ValueError()
    for _ in range(N): e = ExceptionGroup("x", [e])
    e.split(TypeError)
@kind
def tb_long():
    import traceback
    def mk(x):
        e = ValueError(); e.__context__ = x; return e
    traceback.format_exception(nest(N, mk))
@kind
def itertools_next():
    import itertools as i
    makers = [
        lambda x: map(int, x), lambda x: filter(None, x), zip, enumerate, i.chain, i.cycle,
        lambda x: i.islice(x, 5), lambda x: i.takewhile(bool, x), lambda x: i.dropwhile(bool, x),
        lambda x: i.starmap(max, x), i.accumulate, lambda x: i.compress(x, [1]),
        lambda x: i.filterfalse(bool, x), i.pairwise, lambda x: i.batched(x, 1), i.zip_longest,
        i.groupby,
    ]
    for make in makers:
        it = iter([1])
        for _ in range(N): it = make(it)
        try: next(it)
        except (RecursionError, StopIteration, TypeError): pass
    raise RecursionError("all")
def run(name):
    try:
        KINDS[name]()
    except (RecursionError, MemoryError) as error:
        return type(error).__name__
    return "ok"
def names():
    return list(KINDS)
