def draw(settings, rows, path):
    pass
