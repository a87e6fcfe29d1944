def print_predictions(measured, folder):
    pass
