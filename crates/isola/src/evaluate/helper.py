def __isola_evaluate__():
    import ast
    import inspect
    import json
    import linecache

    from sandbox.asyncio import run

    names = globals()
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    count = 0

    def evaluate(source):
        nonlocal count
        count += 1
        source = source.removeprefix("\ufeff")
        name = f"cell-{count}.py"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        tree = compile(source, name, "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        perform(compile(tree, name, "exec", flags, dont_inherit=True))
        if last is None:
            return None
        return shown(perform(compile(last, name, "eval", flags, dont_inherit=True)))

    def perform(code):
        result = eval(code, names)
        if code.co_flags & inspect.CO_COROUTINE:
            return run(result)
        return result

    def shown(value):
        if inspect.isawaitable(value):
            value = run(value)
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            return value
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return repr(value)
        return value

    return evaluate


__isola_evaluate__ = __isola_evaluate__()
